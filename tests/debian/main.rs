//! What `tests/package` makes: the same twice, to lintian's satisfaction, with its inventory; installed, upgraded and
//! purged in a Debian container whose first process is systemd, with BIRD on the other side.

#[path = "../container/docker.rs"]
#[allow(dead_code, reason = "the images of tests/container use the rest")]
mod docker;
mod machine;
mod make;

use std::fs;
use std::path::Path;
use std::process::Command;

use docker::finish;
use machine::{installed_upgraded_and_purged, the_archive_is_installed_by_hand};
use make::{Package, is_static, tree_elsewhere};
use sidecast_lab::{Lab, binary, cache, program};

sidecast_lab::tests! {
    needs ["dpkg-deb", "strip"]:
        twice_made_it_is_the_same;
    needs ["dpkg-deb", "lintian", "strip"]:
        lintian_finds_nothing_but_what_is_named;
    needs ["dpkg-deb", "strip", "venv/bin/python"]:
        the_inventory_is_whole;
    needs ["/var/run/docker.sock", "docker", "debian.tar", "dpkg-deb", "bird", "birdc", "ip", "strip"]:
        installed_upgraded_and_purged,
        the_archive_is_installed_by_hand;
    needs ["dpkg-deb", "qemu-aarch64", "../sidecast/zig/bin/cargo-zigbuild"]:
        the_package_for_arm64_runs;
    needs ["../sidecast/zig/bin/cargo-zigbuild"]:
        compiled_in_another_folder_it_is_the_same;
    needs ["tar"]:
        the_crate_is_packed_and_installed;
}

fn twice_made_it_is_the_same() {
    let lab = Lab::new();
    let packages = ["one", "other"].map(|name| Package::new(&lab, name));
    for format in ["deb", "tar"] {
        let made = packages.each_ref().map(|package| package.make(format));
        let [one, other] = made
            .each_ref()
            .map(|path| fs::read(path).expect("a package"));
        assert!(one == other, "{made:?} differ");
        println!("{format}: {} bytes", one.len());
    }
}

/// What it finds and `tests/debian/lintian-overrides` does not name, fails.
fn lintian_finds_nothing_but_what_is_named() {
    if !is_static(&binary()) {
        println!(
            "skipped: cargo's own binary of this run needs libraries; SIDECAST_BIN names one that does not"
        );
        return;
    }
    let lab = Lab::new();
    let package = Package::new(&lab, "lintian").make("deb");
    let lintian = |options: &[&str]| {
        let mut command = Command::new("lintian");
        command.arg("--allow-root").args(options).arg(&package);
        let output = command.output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    };
    assert_eq!(lintian(&[]), "");
    // It does look: what is overridden is there.
    let found = lintian(&["--no-override"]);
    assert!(
        found.contains("shared-library-lacks-prerequisites"),
        "{found}"
    );
}

/// The bill of materials passes CycloneDX' schema and has every crate that cargo links, and each has the text of its
/// license.
fn the_inventory_is_whole() {
    let lab = Lab::new();
    let root = Package::new(&lab, "inventory").unpack("deb");
    let unzip = |name: &str| {
        let mut command = Command::new("gzip");
        command.arg("-dc");
        command.arg(root.join("usr/share/doc/sidecast").join(name));
        finish(command)
    };
    let bill = unzip("sidecast.cdx.json.gz");
    let texts = unzip("THIRD-PARTY-LICENSES.gz");
    let file = lab.dir().join("bill.json");
    fs::write(&file, &bill).expect("a file");
    let mut validate = Command::new(cache().join("venv/bin/python"));
    validate.args(["-c", VALIDATE]).arg(&file);
    assert_eq!(finish(validate), "valid\n");

    let bill: serde_json::Value = serde_json::from_str(&bill).expect("JSON");
    let components = bill["components"].as_array().expect("a list");
    let linked = linked();
    for (name, version) in &linked {
        let mut same = components.iter().filter(|one| one["name"] == **name);
        let listed = same.any(|one| one["version"] == **version);
        assert!(listed, "{name} {version}: not in the bill of materials");
        let title = format!("\n{name} {version}: ");
        assert!(texts.contains(&title), "{name} {version}: no license");
    }
    for title in [
        "\nRust standard library 1.",
        "\nmusl: MIT\n",
        "\nLLVM libunwind: ",
    ] {
        assert!(texts.contains(title), "{title}");
    }
    // The standard library and the C library are no crates.
    assert_eq!(components.len(), linked.len() + 2);
}

/// Name and version of every crate that cargo links into the binary.
fn linked() -> Vec<(String, String)> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args([
        "tree",
        "--locked",
        "--offline",
        "--edges",
        "normal",
        "--no-dedupe",
    ]);
    tree.args(["--prefix", "none", "--format", "{p}", "--target", TARGET]);
    let said = finish(tree);
    let crates = said.lines().skip(1).map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let name = words.next().expect("a name");
        let version = words.next().expect("a version");
        (name, version.trim_start_matches('v').to_owned())
    });
    let mut crates: Vec<_> = crates.collect();
    crates.sort();
    crates.dedup();
    assert!(crates.len() > 50, "{crates:?}");
    crates
}

/// As an engine with the emulator would run it.
fn the_package_for_arm64_runs() {
    let lab = Lab::new();
    let package = Package::new(&lab, "arm64").of("arm64", None);
    let path = package.make("deb");
    let mut field = Command::new("dpkg-deb");
    field.arg("-f").arg(&path).arg("Architecture");
    assert_eq!(finish(field), "arm64\n");
    let root = package.unpack("deb");
    let emulated = |args: &[&str]| {
        let mut command = Command::new(program("qemu-aarch64").expect("the test needs it"));
        command.arg(root.join("usr/bin/sidecast")).args(args);
        command.env_clear();
        finish(command)
    };
    let version = concat!("sidecast ", env!("CARGO_PKG_VERSION"));
    let said = emulated(&["--version"]);
    assert!(said.starts_with(version), "{said}");
    let config = root.join("etc/sidecast/config.yaml").display().to_string();
    let effective = emulated(&["check", &config]);
    assert!(effective.contains("192.0.2.53/32"), "{effective}");
    // What was printed by this machine's binary is what the package's own would print.
    let mut manual = Command::new("gzip");
    manual
        .arg("-dc")
        .arg(root.join("usr/share/man/man8/sidecast.8.gz"));
    assert_eq!(finish(manual), emulated(&["man", "8"]));
}

/// Neither the folder of the source nor that of the build is in it.
fn compiled_in_another_folder_it_is_the_same() {
    let lab = Lab::new();
    let compile = |folder: &Path| {
        let mut musl = Command::new(folder.join("tests/musl"));
        musl.args(["--target", TARGET])
            .env_remove("CARGO_TARGET_DIR");
        let said = finish(musl);
        let path = folder.join(said.lines().next().expect("a path"));
        fs::read(path).expect("the binary")
    };
    let elsewhere = tree_elsewhere(&lab);
    let [one, other] = [Path::new(env!("CARGO_MANIFEST_DIR")), &elsewhere].map(compile);
    assert!(
        one == other,
        "compiled in {}, it differs",
        elsewhere.display()
    );
}

/// `cargo package` leaves the tests' data out, and what it packs is enough for `cargo install`.
fn the_crate_is_packed_and_installed() {
    let lab = Lab::new();
    let cargo = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(args).arg("--offline");
        command
    };
    let packed = lab.dir().display().to_string();
    let mut package = cargo(&["package", "--locked", "--no-verify", "--allow-dirty"]);
    package.args(["--target-dir", &packed]);
    finish(package);
    let name = concat!("sidecast-", env!("CARGO_PKG_VERSION"));
    let archive = lab.dir().join("package").join(format!("{name}.crate"));
    let mut extract = Command::new("tar");
    extract.arg("-xvf").arg(&archive).arg("-C").arg(lab.dir());
    let files = finish(extract);
    assert!(files.contains("/src/main.rs"), "{files}");
    assert!(!files.contains("/tests/data/"), "{files}");

    let source = lab.dir().join(name).display().to_string();
    let mut install = cargo(&[
        "install", "--locked", "--quiet", "--debug", "--path", &source,
    ]);
    install.args(["--root", &packed]);
    finish(install);
    let mut check = Command::new(lab.dir().join("bin/sidecast"));
    check.args(["check", "--quiet"]).env_remove("SIDECAST_BIN");
    check.arg(lab.dir().join(name).join("examples/systemd/config.yaml"));
    finish(check);
}

const VALIDATE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = open(sys.argv[1]).read()
print(JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) or 'valid')
";
const TARGET: &str = "x86_64-unknown-linux-musl";
