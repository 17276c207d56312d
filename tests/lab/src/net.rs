//! Network namespaces and the cables between them.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns, unshare};

use crate::keeper;

/// A temporary folder and the namespaces of one test. Dropped, nothing of it is left.
pub struct Lab {
    dir: PathBuf,
}

impl Lab {
    #[expect(clippy::new_without_default, reason = "makes a folder")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        keeper::hire();
        let prefix = keeper::prefix(std::process::id());
        let dir = std::env::temp_dir().join(format!("{prefix}{number}"));
        fs::create_dir(&dir).expect("a temporary folder");
        Self { dir }
    }

    /// Where the test's files live; gone with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new network with nothing in it but `lo`, which is up, as in a container.
    pub fn namespace(&self, name: &str) -> Namespace {
        let home = current();
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare: root in this lab");
        let made = current();
        setns(&home, CloneFlags::CLONE_NEWNET).expect("back into the thread's own network");
        let namespace = Namespace {
            name: name.to_owned(),
            network: made,
            dir: self.dir.clone(),
        };
        // Duplicate address detection takes a second, in which an address cannot be used.
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
        }
        namespace.ip("link set lo up");
        namespace
    }

    /// The network namespace of a process of another program, such as a container.
    pub fn adopt(&self, name: &str, pid: u32) -> Namespace {
        let network = File::open(format!("/proc/{pid}/ns/net"));
        Namespace {
            name: name.to_owned(),
            network: network.unwrap_or_else(|error| panic!("network of {name} ({pid}): {error}")),
            dir: self.dir.clone(),
        }
    }

    /// A veth pair with one end in the namespace `one` and one in `other`, both up: (namespace, device, addresses as
    /// "ADDRESS/LENGTH").
    pub fn cable(&self, one: (&Namespace, &str, &[&str]), other: (&Namespace, &str, &[&str])) {
        let far = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            other.0.network.as_raw_fd()
        );
        one.0.ip(&format!(
            "link add {} type veth peer name {} netns {far}",
            one.1, other.1
        ));
        for (namespace, device, addresses) in [one, other] {
            for address in addresses {
                namespace.ip(&format!("addr add {address} dev {device}"));
            }
            namespace.ip(&format!("link set {device} up"));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("{}: {error}", self.dir.display());
        }
    }
}

/// A network namespace without a name in the file system: it lives as long as this value and the
/// processes in it.
pub struct Namespace {
    name: String,
    network: File,
    dir: PathBuf,
}

impl Namespace {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The test's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs `work` inside: sockets it opens and children it starts belong there and stay there.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        struct OriginalNamespace(File);
        impl Drop for OriginalNamespace {
            fn drop(&mut self) {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("back home");
            }
        }
        let _home = OriginalNamespace(current());
        setns(&self.network, CloneFlags::CLONE_NEWNET).expect("into the namespace");
        work()
    }

    /// `ip ARGS`, which must succeed.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        let args: Vec<&str> = args.split_whitespace().collect();
        self.run("ip", &args)
    }

    /// `ip -j ARGS`, parsed.
    #[track_caller]
    pub fn ip_json(&self, args: &str) -> serde_json::Value {
        let text = self.ip(&format!("-j {args}"));
        // `ip -j` prints nothing at all where there is nothing.
        let text = if text.trim().is_empty() { "[]" } else { &text };
        serde_json::from_str(text).expect("JSON from ip")
    }

    /// Runs a program to its end inside and returns what it printed; it must succeed.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self
            .enter(|| Command::new(program).args(args).output())
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(
            output.status.success(),
            "in {}: {program} {}: {}{}",
            self.name,
            args.join(" "),
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Loads an nftables script.
    #[track_caller]
    pub fn nft(&self, script: &str) {
        self.run("nft", &[script]);
    }

    /// Writes a kernel setting of this namespace, as `net/ipv4/ip_forward`.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        self.enter(|| fs::write(Path::new("/proc/sys").join(key), value))
            .unwrap_or_else(|error| panic!("{key}={value}: {error}"));
    }

    /// Makes it forward packets of both families.
    pub fn forward(&self) {
        self.sysctl("net/ipv4/ip_forward", "1");
        self.sysctl("net/ipv6/conf/all/forwarding", "1");
    }

    /// The addresses on `device`, as "ADDRESS/LENGTH", without link-local ones and `lo`'s own.
    pub fn addresses(&self, device: &str) -> Vec<String> {
        let mut found = Vec::new();
        let links = self.ip_json(&format!("addr show dev {device}"));
        for link in links.as_array().into_iter().flatten() {
            for info in link["addr_info"].as_array().into_iter().flatten() {
                let local = info["local"].as_str().unwrap_or_default();
                let of_lo = matches!(local, "127.0.0.1" | "::1");
                if !of_lo && !local.starts_with("fe80:") {
                    found.push(format!("{local}/{}", info["prefixlen"]));
                }
            }
        }
        found
    }

    /// The gateway of the route to `destination` in the kernel's main table, if there is a route.
    pub fn gateway(&self, destination: &str) -> Option<String> {
        let family = if destination.contains(':') {
            "-6"
        } else {
            "-4"
        };
        let routes = self.ip_json(&format!("{family} route show {destination}"));
        let route = routes.as_array()?.first()?;
        let via = &route["via"]["host"];
        let gateway = route["gateway"].as_str().or(via.as_str()).unwrap_or("");
        Some(gateway.to_owned())
    }
}

/// The network namespace of the calling thread.
fn current() -> File {
    File::open("/proc/thread-self/ns/net").expect("/proc is mounted")
}
