//! A Docker engine, and what a test makes in it. Everything carries a label with this process's number;
//! dropped, it is gone, and what a killed run left goes when the next one begins.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use sidecast_lab::program;

/// Whether an engine answers here.
pub fn available() -> bool {
    Command::new("docker")
        .args(["info", "--format", "{{.ServerVersion}}"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// What one test made.
pub struct Docker {
    /// This process and a number of its own: tests run in parallel.
    owner: String,
}

impl Docker {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let shown = format!("{{{{.Label \"{LABEL}\"}}}}");
        for owner in docker(&[
            "ps",
            "-a",
            "--filter",
            &format!("label={LABEL}"),
            "--format",
            &shown,
        ])
        .lines()
        {
            let process = owner.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(process).exists() {
                clean(owner);
            }
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            owner: format!("{}-{number}", std::process::id()),
        }
    }

    /// A name that is this test's own, for containers, networks and images alike.
    pub fn name(&self, what: &str) -> String {
        format!("{LABEL}-{}-{what}", self.owner)
    }

    /// `KEY=VALUE`; what carries it goes when the test ends.
    pub fn label(&self) -> String {
        format!("{LABEL}={}", self.owner)
    }

    pub fn network(&self, what: &str) -> String {
        let name = self.name(what);
        docker(&["network", "create", "--label", &self.label(), &name]);
        name
    }

    /// A container in the background.
    #[track_caller]
    pub fn run(&self, what: &str, image: &str, options: &[&str], command: &[&str]) -> Container {
        let name = self.name(what);
        let label = self.label();
        let mut args = vec!["run", "-d", "--name", &name, "--label", &label];
        args.extend(options);
        args.push(image);
        args.extend(command);
        docker(&args);
        Container { name }
    }

    /// A container that does its work and is gone; what it printed.
    #[track_caller]
    pub fn once(&self, image: &str, command: &[&str]) -> String {
        let label = self.label();
        docker(&[&["run", "--rm", "--label", &label, image], command].concat())
    }

    /// An image whose file system is this folder, extended attributes included.
    /// `changes` are instructions of a Dockerfile.
    pub fn import(&self, what: &str, tree: &Path, changes: &[&str]) -> String {
        let name = self.name(what);
        let tar = tree.with_extension("tar");
        pack(tree, ".", &tar);
        let tar = tar.display().to_string();
        let mut args = vec!["import"];
        args.extend(changes.iter().flat_map(|change| ["-c", change]));
        args.extend([&*tar, &name]);
        docker(&args);
        name
    }

    /// An image from a stage of the Dockerfile (the last one where it has no name), without network.
    #[track_caller]
    pub fn build(
        &self,
        what: &str,
        builder: Builder,
        stage: &str,
        args: &[&str],
        context: &Path,
    ) -> String {
        let name = self.name(what);
        let mut command = builder.command();
        command.args(["-q", "--network", "none", "-t", &name]);
        if !stage.is_empty() {
            command.args(["--target", stage]);
        }
        command.args(args.iter().flat_map(|arg| ["--build-arg", arg]));
        command.arg("-f").arg(DOCKERFILE).arg(context);
        finish(command);
        name
    }

    /// The prebuilt stage for a platform, as `linux/arm64`, of binaries that lie in folders of those names.
    #[track_caller]
    pub fn build_for(&self, platform: &str, what: &str, context: &Path) -> String {
        let name = self.name(what);
        let mut command = Builder::BuildKit.command();
        command.args(["-q", "--network", "none", "-t", &name]);
        command.args(["--platform", platform, "--target", "prebuilt"]);
        command.arg("-f").arg(DOCKERFILE).arg(context);
        finish(command);
        name
    }

    /// A file or folder of an image, as it lies in it.
    pub fn take(&self, image: &str, path: &str, to: &Path) {
        let id = docker(&["create", "--label", &self.label(), image, "-"]);
        let from = format!("{}:{path}", id.trim());
        docker(&["cp", "-a", &from, &to.display().to_string()]);
        docker(&["rm", id.trim()]);
    }

    /// One line of what the engine knows of an image.
    pub fn inspect(&self, image: &str, format: &str) -> String {
        let report = docker(&["image", "inspect", "-f", format, image]);
        report.trim().to_owned()
    }

    /// Bytes.
    pub fn size(&self, image: &str) -> u64 {
        let text = self.inspect(image, "{{.Size}}");
        text.parse().expect("a size")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let filter = format!("label={}", self.label());
            for id in docker(&["ps", "-aq", "--filter", &filter]).split_whitespace() {
                let name = docker(&["inspect", "-f", "{{.Name}} {{.State.Status}}", id]);
                let logs = output(&["logs", "--tail", "30", id]);
                eprintln!(
                    "--- {}{}{}---",
                    name,
                    String::from_utf8_lossy(&logs.stdout),
                    String::from_utf8_lossy(&logs.stderr)
                );
            }
        }
        clean(&self.owner);
    }
}

/// Who reads the Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builder {
    /// The engine's own of old, which every engine has.
    Classic,
    BuildKit,
}

impl Builder {
    fn command(self) -> Command {
        let mut command = match self {
            Self::Classic => Command::new("docker"),
            Self::BuildKit => Command::new(program("docker-buildx").expect("the test needs it")),
        };
        command.arg("build").env("DOCKER_BUILDKIT", "0");
        command
    }
}

/// A container of ours.
pub struct Container {
    name: String,
}

impl Container {
    /// Its first process, as this machine numbers it.
    pub fn pid(&self) -> u32 {
        self.inspect("{{.State.Pid}}").parse().expect("a pid")
    }

    pub fn network_of(&self) -> String {
        format!("container:{}", self.name)
    }

    pub fn address_in(&self, network: &str) -> String {
        self.inspect(&format!(
            "{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"
        ))
    }

    pub fn join(&self, network: &str) {
        docker(&["network", "connect", network, &self.name]);
    }

    /// `healthy`, `starting` or `unhealthy`.
    pub fn health(&self) -> String {
        self.inspect("{{.State.Health.Status}}")
    }

    #[track_caller]
    pub fn ask(&self, verb: &[&str]) -> String {
        let mut args = verb.to_vec();
        args.push(&self.name);
        docker(&args)
    }

    /// What it wrote so far, both ways.
    pub fn log(&self) -> String {
        let Output { stdout, stderr, .. } = output(&["logs", &self.name]);
        String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr)
    }

    #[track_caller]
    fn inspect(&self, format: &str) -> String {
        docker(&["inspect", "-f", format, &self.name])
            .trim()
            .to_owned()
    }
}

/// Packs one entry of a folder, with file capabilities.
#[track_caller]
pub fn pack(folder: &Path, entry: &str, tar: &Path) {
    let packed = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=security.capability", "-C"])
        .arg(folder)
        .arg("-cf")
        .arg(tar)
        .arg(entry)
        .status()
        .expect("tar");
    assert!(packed.success());
}

fn clean(owner: &str) {
    let filter = format!("label={LABEL}={owner}");
    let containers = docker(&["ps", "-aq", "--filter", &filter]);
    remove(&["rm", "-f", "-v"], containers.split_whitespace());
    let networks = docker(&["network", "ls", "-q", "--filter", &filter]);
    remove(&["network", "rm"], networks.split_whitespace());
    let images = docker(&["images", "--format", "{{.Repository}}"]);
    let ours = format!("{LABEL}-{owner}-");
    remove(
        &["rmi", "-f"],
        images.lines().filter(|name| name.starts_with(&ours)),
    );
}

fn remove<'a>(verb: &[&'a str], what: impl Iterator<Item = &'a str>) {
    let what: Vec<&str> = what.collect();
    if !what.is_empty() {
        // What is gone already is what is wanted.
        output(&[verb, &what].concat());
    }
}

#[track_caller]
fn docker(args: &[&str]) -> String {
    let mut command = Command::new("docker");
    command.args(args);
    finish(command)
}

/// Its output, once it has succeeded.
#[track_caller]
pub fn finish(mut command: Command) -> String {
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let report = text(&output.stdout);
    assert!(
        output.status.success() || std::thread::panicking(),
        "{command:?}: {}{report}",
        text(&output.stderr)
    );
    report
}

fn output(args: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.args(args).output().expect("docker runs")
}

const LABEL: &str = "sidecast-tests";
const DOCKERFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile.sidecar");
