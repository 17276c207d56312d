//! Small file systems: programs and the libraries they need, for images and `chroot`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use sidecast_lab::{cache, program};

/// Puts each program where it lies here (or at the second path), with its libraries.
#[track_caller]
pub fn plant(tree: &Path, programs: &[(&str, &str)]) {
    for (program, place) in programs {
        for library in libraries(program) {
            copy(&library, tree, Path::new(&at_home(&library)));
        }
        let planted = copy(Path::new(program), tree, Path::new(place));
        // What only a debugger reads is most of what cargo builds, and of the engine's work. Where there
        // is no `strip`, or nothing to strip, it stays.
        let large = fs::metadata(&planted).is_ok_and(|file| file.len() > LARGE);
        if large {
            let _ = Command::new("strip")
                .arg("--strip-debug")
                .arg(&planted)
                .status();
        }
    }
    for folder in ["etc", "run", "tmp", "var/log"] {
        fs::create_dir_all(tree.join(folder)).expect("a folder");
    }
    let users = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
    fs::write(tree.join("etc/passwd"), users).expect("a file");
}

/// Puts a folder where it lies here, as it is.
#[track_caller]
pub fn plant_folder(tree: &Path, folder: &str) {
    let to = tree.join(folder.trim_start_matches('/'));
    fs::create_dir_all(&to).expect("a folder");
    let mut copy = Command::new("cp");
    copy.args(["-a", "-T", "--reflink=auto"])
        .arg(folder)
        .arg(&to);
    assert!(copy.status().expect("cp").success(), "{folder}");
}

/// Puts programs by name, installed here or in the tests' cache, where Debian has them.
#[track_caller]
pub fn plant_by_name(tree: &Path, names: &[&str]) {
    let bin = tree.join("bin");
    if !bin.exists() {
        fs::create_dir_all(tree.join("usr/bin")).expect("a folder");
        symlink("usr/bin", bin).expect("a link");
    }
    for name in names {
        let found = program(name).unwrap_or_else(|| panic!("{name}: run tests/setup"));
        let found = found.display().to_string();
        plant(tree, &[(&found, &at_home(Path::new(&found)))]);
    }
}

/// A folder of plug-ins beside the unpacked libraries, with what they need.
#[track_caller]
pub fn plant_modules(tree: &Path, folder: &str) {
    let libraries = unpacked_libraries();
    let folders = libraries
        .split(':')
        .map(|path| Path::new(path).join(folder));
    let modules = folders.filter_map(|folder| fs::read_dir(folder).ok());
    for module in modules.flatten().flatten() {
        let path = module.path().display().to_string();
        plant(tree, &[(&path, &at_home(Path::new(&path)))]);
    }
}

/// A script; nothing but the shell need be there.
#[track_caller]
pub fn script(tree: &Path, place: &str, text: &str) {
    let place = tree.join(place);
    fs::create_dir_all(place.parent().expect("a folder above")).expect("a folder");
    fs::write(&place, format!("#!/bin/sh\nset -e\n{text}")).expect("a file");
    fs::set_permissions(&place, Permissions::from_mode(0o755)).expect("a file of ours");
}

/// The paths in what `ldd` prints: `name => /path (0x…)` and `/path (0x…)`. A static program has none.
fn libraries(program: &str) -> Vec<PathBuf> {
    let output = Command::new("ldd")
        .arg(program)
        .env("LD_LIBRARY_PATH", unpacked_libraries())
        .output()
        .expect("ldd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    paths
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect()
}

/// The folders with libraries in what `tests/setup` unpacked.
fn unpacked_libraries() -> String {
    let folders = fs::read_dir(cache().join("root/usr/lib"))
        .into_iter()
        .flatten();
    let folders = folders.flatten().map(|entry| entry.path());
    let named: Vec<String> = folders.map(|path| path.display().to_string()).collect();
    named.join(":")
}

/// Where a file lies on a machine that has its package installed.
fn at_home(path: &Path) -> String {
    let inside = path.strip_prefix(cache().join("root"));
    let home = inside.map_or_else(|_| path.to_owned(), |inside| Path::new("/").join(inside));
    home.display().to_string()
}

/// Whether it runs where there is no library at all.
pub fn is_static(program: &str) -> bool {
    libraries(program).is_empty()
}

#[track_caller]
fn copy(from: &Path, tree: &Path, place: &Path) -> PathBuf {
    let to = tree.join(place.strip_prefix("/").unwrap_or(place));
    fs::create_dir_all(to.parent().expect("a folder above")).expect("a folder");
    fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    to
}

/// Bytes.
const LARGE: u64 = 20_000_000;
