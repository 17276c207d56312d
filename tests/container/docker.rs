//! A Docker engine, and what a test makes in it. Everything carries a label with this process's number;
//! dropped, it is gone, and what a killed run left goes when the next one begins.

use std::path::Path;
use std::process::{Command, Output};

/// Whether an engine answers here.
pub fn available() -> bool {
    Command::new("docker")
        .args(["info", "--format", "{{.ServerVersion}}"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// What one test made.
pub struct Docker {
    prefix: String,
}

impl Docker {
    pub fn new() -> Self {
        let me = std::process::id();
        for listed in
            docker(&["ps", "-aq", "--filter", &format!("label={LABEL}")]).split_whitespace()
        {
            let owner = docker(&[
                "inspect",
                "-f",
                &format!("{{{{index .Config.Labels \"{LABEL}\"}}}}"),
                listed,
            ]);
            if !Path::new("/proc").join(owner.trim()).exists() {
                clean(owner.trim());
            }
        }
        Self {
            prefix: format!("{LABEL}-{me}"),
        }
    }

    /// A name that is this test's own, for containers, networks and images alike.
    pub fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }

    pub fn network(&self, what: &str) -> String {
        let name = self.name(what);
        docker(&["network", "create", "--label", &label(), &name]);
        name
    }

    /// A container in the background.
    #[track_caller]
    pub fn run(&self, what: &str, image: &str, options: &[&str], command: &[&str]) -> Container {
        let name = self.name(what);
        let label = label();
        let mut args = vec!["run", "-d", "--name", &name, "--label", &label];
        args.extend(options);
        args.push(image);
        args.extend(command);
        docker(&args);
        Container { name }
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

    /// An image from a stage of a Dockerfile, without network.
    pub fn build(&self, what: &str, dockerfile: &Path, stage: &str, context: &Path) -> String {
        let name = self.name(what);
        let (file, context) = (
            dockerfile.display().to_string(),
            context.display().to_string(),
        );
        let args = [
            "build",
            "-q",
            "--network",
            "none",
            "-f",
            &file,
            "--target",
            stage,
            "-t",
            &name,
            &context,
        ];
        docker(&args);
        name
    }

    /// Bytes.
    pub fn size(&self, image: &str) -> u64 {
        let text = docker(&["image", "inspect", "-f", "{{.Size}}", image]);
        text.trim().parse().expect("a size")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let filter = format!("label={}", label());
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
        clean(&std::process::id().to_string());
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
    let output = output(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout);
    assert!(
        output.status.success() || std::thread::panicking(),
        "docker {}: {}{said}",
        args.join(" "),
        text(&output.stderr)
    );
    said
}

fn output(args: &[&str]) -> Output {
    Command::new("docker")
        .args(args)
        // Where the newer builder is not installed the old one says so on every build, and works.
        .env("DOCKER_CLI_HINTS", "false")
        .output()
        .expect("docker runs")
}

fn label() -> String {
    format!("{LABEL}={}", std::process::id())
}

const LABEL: &str = "sidecast-test";
