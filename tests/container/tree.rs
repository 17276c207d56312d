//! Small file systems: programs and the libraries they need, for images and `chroot`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Puts each program where it lies here (or at the second path), with its libraries.
#[track_caller]
pub fn plant(tree: &Path, programs: &[(&str, &str)]) {
    for (program, place) in programs {
        for library in libraries(program) {
            copy(&library, tree, &library);
        }
        copy(Path::new(program), tree, Path::new(place));
    }
    for folder in ["etc", "run", "tmp", "var/log"] {
        fs::create_dir_all(tree.join(folder)).expect("a folder");
    }
    let users = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
    fs::write(tree.join("etc/passwd"), users).expect("a file");
}

/// The paths in what `ldd` prints: `name => /path (0x…)` and `/path (0x…)`. A static program has none.
fn libraries(program: &str) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    paths
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect()
}

/// Whether it runs where there is no library at all.
pub fn is_static(program: &str) -> bool {
    libraries(program).is_empty()
}

#[track_caller]
fn copy(from: &Path, tree: &Path, place: &Path) {
    let to = tree.join(place.strip_prefix("/").unwrap_or(place));
    fs::create_dir_all(to.parent().expect("a folder above")).expect("a folder");
    fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}
