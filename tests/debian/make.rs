//! Calls `tests/package`, and takes apart what it made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sidecast_lab::{Lab, binary, copy_program};

use crate::docker::finish;

/// A package of one architecture, made of one binary.
pub struct Package {
    folder: PathBuf,
    architecture: &'static str,
    binary: Option<PathBuf>,
}

impl Package {
    /// Of the binary under test, without what only a debugger reads.
    pub fn new(lab: &Lab, name: &str) -> Self {
        let folder = lab.dir().join(name);
        fs::create_dir(&folder).expect("a folder");
        let stripped = folder.join("sidecast");
        copy_program(binary(), &stripped);
        let mut strip = Command::new("strip");
        strip.arg(&stripped);
        finish(strip);
        let architecture = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "amd64",
        };
        Self {
            folder,
            architecture,
            binary: Some(stripped),
        }
    }

    /// Of another architecture; without a binary it is compiled.
    pub fn of(self, architecture: &'static str, binary: Option<PathBuf>) -> Self {
        Self {
            architecture,
            binary,
            ..self
        }
    }

    /// Where the package is.
    #[track_caller]
    pub fn make(&self, format: &str) -> PathBuf {
        let mut package = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/package"));
        package
            .args([format, self.architecture])
            .env("OUTPUT", &self.folder);
        package.env_remove("SIDECAST_BIN");
        if let Some(binary) = &self.binary {
            package.env("SIDECAST_BIN", binary);
        }
        PathBuf::from(finish(package).trim())
    }

    /// What would be installed, under a folder.
    #[track_caller]
    pub fn unpack(&self, format: &str) -> PathBuf {
        let (package, root) = (self.make(format), self.folder.join("root"));
        let mut extract = Command::new("dpkg-deb");
        extract.arg("-x").arg(package).arg(&root);
        finish(extract);
        root
    }

    /// What [`Package::make`] made, as a later version, packed with little effort.
    #[track_caller]
    pub fn version(&self, package: &Path, version: &str) -> PathBuf {
        let tree = self.folder.join(version);
        let mut extract = Command::new("dpkg-deb");
        extract.arg("-R").arg(package).arg(&tree);
        finish(extract);
        let control = tree.join("DEBIAN/control");
        let text = fs::read_to_string(&control).expect("a control file");
        let now = format!("Version: {}\n", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&now), "{text}");
        let text = text.replace(&now, &format!("Version: {version}\n"));
        fs::write(&control, text).expect("a file of ours");
        let path = self.folder.join(format!("{version}.deb"));
        let mut build = Command::new("dpkg-deb");
        build
            .args(["--root-owner-group", "-Zgzip", "-z1", "--build"])
            .arg(&tree)
            .arg(&path);
        finish(build);
        path
    }

    /// Where all of it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Whether it runs where there is no library at all.
pub fn is_static(program: &str) -> bool {
    let output = Command::new("ldd").arg(program).output().expect("ldd runs");
    let said = [output.stdout, output.stderr].concat();
    !String::from_utf8_lossy(&said).contains("=>")
}

/// What a build needs, in a folder of another name.
pub fn tree_elsewhere(lab: &Lab) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let there = lab.dir().join("elsewhere");
    fs::create_dir(&there).expect("a folder");
    for name in [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "tests",
        "examples",
        "README.md",
        "LICENSE",
    ] {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(here.join(name)).arg(&there);
        finish(copy);
    }
    there
}
