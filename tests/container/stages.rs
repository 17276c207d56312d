//! The Dockerfile's stages, each made by both builders. There is no registry to take the base images from,
//! so stand-ins take their place: they have the programs that the stages ask for, an `apk` that installs
//! nothing, and a `cargo` that brings the binary under test instead of compiling for minutes, but in the one
//! test of what it compiles.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sidecast_lab::{Lab, binary, cache, expect, until};

use crate::death::among_others;
use crate::docker::{Builder, Container, Docker, finish};
use crate::{DNS_VIP, Images, PATIENCE, Pod, Yard, ask_dns, tree};

pub fn every_stage_by_either_builder() {
    let _others = among_others();
    let lab = Lab::new();
    let docker = Docker::new();
    let bases = Bases::make(&docker, lab.dir());
    for builder in [Builder::BuildKit, Builder::Classic] {
        let stage = |name: &str| bases.stage(&docker, builder, name);
        // The classic builder makes them all, so each gets a name and none is left nameless.
        let [_, sources, shell, last] = ["prebuilt", "builder", "with-shell", LAST].map(stage);
        let context = lab.dir().join(format!("{builder:?}"));
        docker.take(&sources, "/src", &context);
        what_cargo_needs_is_in(&context);
        let size = docker.size(&last);
        println!("{builder:?}: the image {size} bytes");
        assert_eq!(size, bases.program, "the binary and nothing else");
        for image in [&shell, &last] {
            let report = docker.inspect(image, "{{json .Config.Healthcheck.Test}}");
            assert_eq!(report, r#"["CMD","/sidecast","healthcheck"]"#);
            let report = docker.inspect(image, "{{json .Config.Entrypoint}}");
            assert_eq!(report, r#"["/sidecast"]"#);
            let program = lab.dir().join("taken");
            docker.take(image, "/sidecast", &program);
            let mut getcap = Command::new("getcap");
            getcap.arg(&program);
            let kept = finish(getcap).contains("cap_net_admin");
            // What the Dockerfile says of the classic one, and why it wants the other for ordinary users.
            assert_eq!(kept, builder == Builder::BuildKit, "file capabilities");
            let user = docker.inspect(image, "{{.Config.User}}");
            assert_eq!(user, if kept { "65534:65534" } else { "0" });
            let version = docker.inspect(image, VERSION_LABEL);
            assert_eq!(version, env!("CARGO_PKG_VERSION"));
        }
        if tree::is_static(&binary()) {
            let begun = docker.once(&last, &["--version"]);
            assert!(begun.starts_with("sidecast "), "{begun}");
        }
    }
}

/// Binaries of two architectures, each in the image of its platform, with nothing emulated.
pub fn an_image_for_each_platform() {
    let _others = among_others();
    let lab = Lab::new();
    let docker = Docker::new();
    let context = lab.dir().join("dist");
    plant_platforms(&context);
    for architecture in PLATFORMS {
        let platform = format!("linux/{architecture}");
        let image = docker.build_for(&platform, architecture, &context);
        let kind = docker.inspect(&image, "{{.Os}}/{{.Architecture}}");
        assert_eq!(kind, platform);
        assert_eq!(docker.inspect(&image, "{{.Config.User}}"), "0");
        let program = lab.dir().join("taken");
        docker.take(&image, "/sidecast", &program);
        let packed = fs::read_to_string(&program).expect("a file");
        assert_eq!(packed, architecture);
    }
}

/// The same in one call and without a registry, by a builder that keeps an index of images itself.
pub fn one_call_makes_an_image_for_each_platform() {
    let lab = Lab::new();
    let context = lab.dir().join("dist");
    plant_platforms(&context);
    let layout = lab.dir().join("layout");
    let dockerfile = concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile.sidecar");
    let build = "build --isolation chroot --format docker --target prebuilt --manifest sidecast \
                 --platform linux/amd64,linux/arm64 -f";
    buildah(&lab, &[build, dockerfile, &context.display().to_string()]);
    let to = format!("dir:{}", layout.display());
    buildah(&lab, &["manifest push --all sidecast", &to]);

    let read = |name: &str| fs::read(layout.join(name)).expect("a file of the image");
    let parse = |name: &str| serde_json::from_slice::<Value>(&read(name)).expect("JSON");
    let name =
        |part: &Value| part["digest"].as_str().expect("a digest")["sha256:".len()..].to_owned();
    let index = parse("manifest.json");
    let manifests = index["manifests"].as_array().expect("an index");
    let mut found = Vec::new();
    for manifest in manifests {
        let image = parse(&format!("{}.manifest.json", name(manifest)));
        let config = parse(&name(&image["config"]));
        assert_eq!(config["architecture"], manifest["platform"]["architecture"]);
        assert_eq!(config["config"]["Healthcheck"]["Test"][1], "/sidecast");
        let mut unpack = Command::new("tar");
        unpack
            .arg("-xOf")
            .arg(layout.join(name(&image["layers"][0])))
            .arg("sidecast");
        assert_eq!(config["architecture"], finish(unpack));
        found.push(config["architecture"].as_str().expect("a name").to_owned());
    }
    found.sort();
    assert_eq!(found, PLATFORMS);
}

/// What stands for the binary of each platform.
fn plant_platforms(context: &Path) {
    for architecture in PLATFORMS {
        let folder = context.join("linux").join(architecture);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("sidecast"), architecture).expect("a file");
    }
}

/// From the cache, with its libraries, and with images of this lab alone.
fn buildah(lab: &Lab, words: &[&str]) {
    let trust = lab.dir().join("policy.json");
    fs::write(
        &trust,
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
    )
    .expect("a file");
    let folder = cache().join("buildah/usr");
    let libraries = folder.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
    let mut command = Command::new(folder.join("bin/buildah"));
    command.env("LD_LIBRARY_PATH", libraries);
    command.arg("--root").arg(lab.dir().join("images"));
    command.arg("--runroot").arg(lab.dir().join("run"));
    command.args(["--storage-driver", "vfs", "--registries-conf", "/dev/null"]);
    command.arg("--signature-policy").arg(trust);
    command.args(words.iter().flat_map(|words| words.split_whitespace()));
    finish(command);
}

/// The builder stage with a real compiler: this machine's, and cargo's cache, in place of the base image. It does not
/// optimize, which takes most of the time; `tests/musl` builds with the same command and holds the size.
pub fn the_builder_stage_compiles_what_ships() {
    let _others = among_others();
    let lab = Lab::new();
    let docker = Docker::new();
    let (bases, folders) = Bases::compiling(&docker, lab.dir());
    let image = bases.stage(&docker, Builder::BuildKit, LAST);
    let program = lab.dir().join("taken");
    docker.take(&image, "/sidecast", &program);
    assert!(tree::is_static(&program.display().to_string()));
    let bytes = fs::read(&program).expect("a file");
    for folder in folders {
        let named = bytes.windows(folder.len()).any(|w| w == folder.as_bytes());
        assert!(!named, "it names {folder}");
    }
    let begun = docker.once(&image, &["--version"]);
    assert!(begun.starts_with("sidecast "), "{begun}");
}

pub fn a_shell_in_the_image_for_exec_monitors() {
    let _others = among_others();
    let lab = Lab::new();
    let docker = Docker::new();
    let bases = Bases::make(&docker, lab.dir());
    let images = Images::make(&docker, lab.dir());
    let yard = Yard::open(&docker, &lab, &images);
    let kept = bases.stage(&docker, Builder::BuildKit, "with-shell");

    let dns = Pod::start(&yard, &images, "dns", DNS_VIP);
    let name_server = dns.name_server(&images);
    // As root, as an ordinary user, and as the image has it.
    for user in [&["--user", "0"][..], &["--user", "1000"], &[]] {
        let sidecar = dns.sidecar(&kept, MONITORS, user);
        until(PATIENCE, "announced by what its scripts say", || {
            ask_dns(&yard.client, DNS_VIP, "host", [198, 51, 100, 7])
                .map_err(|error| format!("{error}\n{}", sidecar.log()))
        });
        healthy(&sidecar);
        sidecar.ask(&["stop", "-t", "10"]);
        sidecar.ask(&["rm"]);
        assert_eq!(yard.router.gateway(DNS_VIP), None);
    }

    // The classic builder's image: root can, and an ordinary user gets an error that names what is missing.
    for stage in ["prebuilt", "builder"] {
        bases.stage(&docker, Builder::Classic, stage);
    }
    let forgotten = bases.stage(&docker, Builder::Classic, "with-shell");
    let sidecar = dns.sidecar(&forgotten, MONITORS, &["--user", "65534"]);
    until(PATIENCE, "it says what is missing", || {
        let log = sidecar.log();
        expect(log.contains("setcap cap_net_admin"), log)
    });
    drop(name_server);
}

/// The stand-ins for the base images.
struct Bases {
    args: [String; 2],
    /// Bytes of the binary that the stand-in for cargo brings, if there is one.
    program: u64,
}

impl Bases {
    /// With a `cargo` that brings the binary under test.
    fn make(docker: &Docker, dir: &Path) -> Self {
        let rust = Self::rust(dir);
        tree::plant(&rust, &[(&binary(), "/under-test")]);
        tree::script(&rust, "usr/bin/cargo", CARGO);
        tree::script(&rust, "usr/bin/rustc", RUSTC);
        Self::import(docker, dir, &rust, &[])
    }

    /// With this machine's compiler and cargo's cache, each where it lies here, and what `tests/musl` fetched. Also the
    /// folders of the builder.
    fn compiling(docker: &Docker, dir: &Path) -> (Self, [String; 3]) {
        let rust = Self::rust(dir);
        let report = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args);
            finish(command).trim().to_owned()
        };
        let sysroot = report("rustc", &["--print", "sysroot"]);
        let host = report("rustc", &["--print", "host-tuple"]);
        let home = std::env::var("HOME").expect("a home");
        let cargo_home = std::env::var("CARGO_HOME").unwrap_or(format!("{home}/.cargo"));
        let musl = cache().with_file_name("sidecast/zig").display().to_string();
        let find = "import ziglang; print(ziglang.__path__[0])";
        let zig = report(&format!("{musl}/bin/python3"), &["-c", find]);
        let cargo = format!("{sysroot}/bin/cargo");
        let rustc = format!("{sysroot}/bin/rustc");
        tree::plant(&rust, &[(&cargo, &cargo), (&rustc, &rustc)]);
        for folder in [
            format!("{sysroot}/lib/rustlib/{host}"),
            format!("{sysroot}/lib/rustlib/src/rust/library"),
            format!("{cargo_home}/registry/index"),
            format!("{cargo_home}/registry/cache"),
            format!("{musl}/bin"),
            zig.clone(),
        ] {
            tree::plant_folder(&rust, &folder);
        }
        let cargo = format!(
            "export CARGO={cargo} RUSTC_BOOTSTRAP=1 RUSTFLAGS=\"$RUSTFLAGS -C link-self-contained=no -C link-arg=-pie\"\n\
             [ \"$1\" = build ]; shift\n\
             exec cargo-zigbuild zigbuild -Z build-std=std,panic_abort \"$@\"\n"
        );
        tree::script(&rust, "usr/local/bin/cargo", &cargo);
        let cc = format!(
            "exec cargo-zigbuild zig cc -- -target {} \"$@\"\n",
            host.replace("-unknown", "")
        );
        tree::script(&rust, "usr/local/bin/cc", &cc);
        let environment = [
            format!(
                "ENV CARGO_HOME={cargo_home} CARGO_NET_OFFLINE=true CARGO_ZIGBUILD_ZIG_PATH={zig}/zig"
            ),
            format!(
                "ENV PATH=/usr/local/bin:{musl}/bin:{sysroot}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            ),
            NOT_OPTIMIZED.to_owned(),
        ];
        let changes = environment.each_ref().map(|line| &**line);
        let bases = Self::import(docker, dir, &rust, &changes);
        (bases, [sysroot, cargo_home, "/src/src/".to_owned()])
    }

    /// What either has.
    fn rust(dir: &Path) -> PathBuf {
        let rust = dir.join("rust");
        tree::plant_by_name(&rust, &["sh", "cp", "mkdir", "uname", "setcap"]);
        tree::script(&rust, "usr/bin/apk", APK);
        rust
    }

    fn import(docker: &Docker, dir: &Path, rust: &Path, changes: &[&str]) -> Self {
        let alpine = dir.join("alpine");
        tree::plant_by_name(&alpine, &["sh", "bash", "dig", "nc", "grep"]);
        // Only its libraries are wanted here, where it has any.
        tree::plant(&alpine, &[(&binary(), "/tmp/under-test")]);
        fs::remove_file(alpine.join("tmp/under-test")).expect("a file of ours");
        tree::script(&alpine, "usr/bin/apk", APK);
        let path = "ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let changes = [&[path], changes].concat();
        let import = |name, tree: &Path| docker.import(name, tree, &changes);
        let program = fs::metadata(rust.join("under-test")).map_or(0, |file| file.len());
        Self {
            program,
            args: [
                format!("RUST={}", import("rust", rust)),
                format!("ALPINE={}", import("alpine", &alpine)),
            ],
        }
    }

    #[track_caller]
    fn stage(&self, docker: &Docker, builder: Builder, stage: &str) -> String {
        let name = if stage == LAST { "last" } else { stage };
        let what = format!("{builder:?}-{name}").to_lowercase();
        let args = self.args.each_ref().map(|arg| &**arg);
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        docker.build(&what, builder, stage, &args, here)
    }
}

/// `.dockerignore` leaves every file of the program and every target that the manifests name, and no more
/// than that: what is sent to the builder stays small, however large the target folder is.
fn what_cargo_needs_is_in(context: &Path) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--offline", "--locked", "--format-version", "1"]);
    cargo.arg("--manifest-path").arg(context.join("Cargo.toml"));
    finish(cargo);
    let mut compare = Command::new("diff");
    compare.args(["--recursive", "--brief"]);
    compare.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    compare.arg(context.join("src"));
    finish(compare);
    for left_out in [".git", "dist"] {
        assert!(!context.join(left_out).exists(), "{left_out}");
    }
    let mut sum = Command::new("du");
    sum.args([
        "--apparent-size",
        "--block-size=1",
        "-s",
        "--exclude=target",
    ]);
    sum.arg(context);
    let report = finish(sum);
    let bytes = report
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    let bytes: u64 = bytes.expect("a size");
    println!("the build's context: {bytes} bytes");
    assert!(bytes < CONTEXT, "{bytes}");
}

fn healthy(container: &Container) {
    until(PATIENCE, "the healthcheck is content", || {
        let health = container.health();
        expect(health == "healthy", health)
    });
}

const PLATFORMS: [&str; 2] = ["amd64", "arm64"];
/// The stage without a name.
const LAST: &str = "";
const VERSION_LABEL: &str = "{{index .Config.Labels \"org.opencontainers.image.version\"}}";
/// Bytes.
const CONTEXT: u64 = 10_000_000;
/// What the profile of the manifest says otherwise, as cargo reads it.
const NOT_OPTIMIZED: &str = "ENV CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
                             CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16";
const MONITORS: &str = "exec:[[ -n $BASH_VERSION ]] && dig +short +time=1 @127.0.0.1 host.example | \
                        grep -qx 198.51.100.7;exec:nc -z 127.0.0.1 53";
const APK: &str = "[ \"$1 $2\" = 'add --no-cache' ]\n";
const RUSTC: &str = "[ \"$*\" = '--print sysroot' ]\necho /usr/local/rust\n";
const CARGO: &str = "\
target=$(uname -m)-unknown-linux-musl
[ \"$*\" = \"build --release --locked --target $target\" ]
mkdir -p target/$target/release
cp /under-test target/$target/release/sidecast
";
