//! The demo, as an unprivileged user sees it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sidecast_lab::{Child, Lab, Namespace, binary, copy_program};

sidecast_lab::tests! {
    needs ["setpriv"]:
        an_ordinary_user_sees_the_main_job;
    needs ["setpriv", "unshare", "sh"]:
        where_namespaces_are_refused_it_names_cause_and_cure;
}

fn an_ordinary_user_sees_the_main_job() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let before = host.ip("addr show") + &host.ip("route show table all");
    let sidecast = for_everybody(&lab);
    let args = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        &sidecast,
        "demo",
    ];
    let (status, output) = run(&host, "setpriv", &args);
    assert_eq!(status, Some(0), "{output}");
    // Each step, in this order.
    let mut rest = &*output;
    for step in [
        "announced",
        "killed",
        "withdrawn",
        "started again",
        "announced",
        "withdrawn",
    ] {
        let found = rest.find(step);
        let at = found.unwrap_or_else(|| panic!("no further {step:?} in\n{output}"));
        rest = rest.get(at + step.len()..).unwrap_or_default();
    }
    // The README's picture shows the same steps: `tests/pictures` makes it again.
    let picture = include_str!("../examples/pictures/demo.svg");
    let timeline = output
        .lines()
        .filter(|line| line.contains(" ms    +") || line.contains(" ms   +"));
    let steps: Vec<&str> = timeline
        .filter_map(|line| Some(line.rsplit_once(" ms   ")?.1))
        .collect();
    assert!(steps.len() > 10, "{output}");
    for step in steps {
        assert!(picture.contains(&format!(">{step}</text>")), "{step}");
    }
    let after = host.ip("addr show") + &host.ip("route show table all");
    assert_eq!(after, before, "the host is not touched");
}

fn where_namespaces_are_refused_it_names_cause_and_cure() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let before = host.ip("addr show");
    // A user namespace that allows no further one, in which no process has capabilities.
    let script = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces && \
         exec setpriv --bounding-set -all --inh-caps -all {} demo",
        for_everybody(&lab)
    );
    let args = ["--user", "--map-root-user", "sh", "-c", &script];
    let (status, output) = run(&host, "unshare", &args);
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("user.max_user_namespaces"), "{output}");
    assert_eq!(host.ip("addr show"), before, "the host is not touched");
}

/// A copy of sidecast where another user may run it: the build may lie under `/root`.
fn for_everybody(lab: &Lab) -> String {
    let copy = lab.dir().join("sidecast");
    copy_program(binary(), &copy);
    for path in [lab.dir(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    }
    copy.to_string_lossy().into_owned()
}

/// Runs it to its end: exit code and what it printed.
fn run(host: &Namespace, program: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut child = Child::start(host, "demo", program, args, &[]);
    let status = child.wait(Duration::from_secs(60));
    (status.code(), child.output())
}
