//! What recipes run beside the announcer: `healthcheck` of a container, `drain` before its end, and the
//! second listener that probes ask.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use sidecast_lab::{
    Bird, Child, Lab, Namespace, Sidecast, Site, VIP4, binary, copy_program, expect, get, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        drain_returns_when_packets_have_stopped_coming,
        a_drain_belongs_to_the_name,
        healthcheck_knows_a_socket_file_and_a_listener_switched_off,
        no_command_dies_of_what_it_writes_to,
        an_announcer_outlives_who_reads_its_log,
        status_shows_one_app_or_what_is_down;
    needs ["ip"]:
        check_shows_a_mistake_of_form_in_its_line,
        check_warns_of_a_zero_that_is_the_default;
    needs ["ip", "mount", "setpriv", "sh", "unshare"]:
        the_usual_configuration_names_the_address;
    needs ["bash", "ip"]:
        bash_offers_what_the_program_takes;
    needs ["zsh", "ip"]:
        zsh_offers_what_the_program_takes;
    needs ["fish", "ip"]:
        fish_offers_what_the_program_takes;
    needs ["man", "groff"]:
        the_manual_is_rendered_without_a_warning;
    needs ["bird", "birdc", "ip", "unshare", "nsenter"]:
        beside_the_first_process_the_file_need_not_be_named;
}

fn drain_returns_when_packets_have_stopped_coming() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let metrics = "agent:\n  metrics_addr: \":9179\"\n";
    let config = metrics.to_owned() + &site.a.config("", "drain_time: 20s");
    let _sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    let address = site.a.addresses.host4.parse().expect("an address");
    // A kubelet asks from outside.
    let probe = |path: &str| {
        let reply = get(&site.router, SocketAddr::new(address, 9179), path);
        reply.expect("an answer").status
    };
    assert_eq!((probe("/healthz"), probe("/readyz")), (200, 200));
    assert_eq!(probe("/apps"), 404, "probes and metrics, no more");
    let metric = format!("sidecast_app_announced{{app=\"dns\",vip=\"{VIP4}/32\"}}");
    let announced = || {
        let at = SocketAddr::new(address, 9179);
        let text = get(&site.router, at, "/metrics").expect("an answer").body;
        let line = text.lines().find_map(|line| line.strip_prefix(&metric));
        line.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
    };
    assert_eq!(announced(), "1");

    let begun = Instant::now();
    let drained = run(&site.a.network, &["drain"], &[]);
    let took = begun.elapsed();
    assert_eq!(drained, (0, String::new()));
    // Two seconds at the earliest, and not drain_time.
    assert!(took >= Duration::from_secs(2), "{took:?} is no drain");
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    let routes = router.ask("show route protocol a");
    assert!(!routes.contains(VIP4), "{routes}");
    assert_eq!((probe("/healthz"), probe("/readyz")), (200, 503));
    assert_eq!(announced(), "0");

    assert_eq!(run(&site.a.network, &["undrain", "dns"], &[]).0, 0);
    site.answered_by("a", PATIENCE);
    until(PATIENCE, "it is ready again", || {
        expect(probe("/readyz") == 200, "not yet")
    });
    let begun = Instant::now();
    let args = ["drain", "dns", "--no-wait"];
    assert_eq!(run(&site.a.network, &args, &[]).0, 0);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "it waited {took:?}");
    until(PATIENCE, "the route goes all the same", || {
        let routes = router.ask("show route protocol a");
        expect(!routes.contains(VIP4), routes)
    });
    let (code, report) = run(&site.a.network, &["drain", "nobody"], &[]);
    assert_eq!(code, 1);
    assert!(report.contains("nobody"), "{report}");
}

fn a_drain_belongs_to_the_name() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = "agent: {drain_time: 0s}\n".to_owned() + &site.a.config("", "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    sidecast.wait_for_api(&site.a.network);
    let vip = "192.0.2.80/32";
    let register = |monitor: &str| {
        let args = ["register", "web", vip, "--monitor", monitor];
        assert_eq!(run(&site.a.network, &args, &[]), (0, String::new()));
    };
    register("port:tcp:8000");
    let there = || router.route(vip).is_some();
    until(PATIENCE, "announced", || expect(there(), "not yet"));
    assert_eq!(run(&site.a.network, &["drain", "web"], &[]).0, 0);
    assert!(!there());
    let state = || sidecast.app(&site.a.network, "web")["state"].clone();
    // The same again, another definition, a new start of the name, and the file read again.
    register("port:tcp:8000");
    assert_eq!(state(), "drained");
    register("port:udp:8001");
    assert_eq!(state(), "drained");
    assert_eq!(run(&site.a.network, &["unregister", "web"], &[]).0, 0);
    register("port:tcp:8000");
    assert_eq!(run(&site.a.network, &["reload"], &[]).0, 0);
    until(PATIENCE, "its first checks", || {
        expect(state() == "drained", state().to_string())
    });
    assert!(!there());
    assert_eq!(run(&site.a.network, &["undrain", "web"], &[]).0, 0);
    until(PATIENCE, "announced again", || expect(there(), "not yet"));
}

fn healthcheck_knows_a_socket_file_and_a_listener_switched_off() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let socket = format!("unix:{}/api", site.a.network.dir().display());
    let vip = format!("{VIP4}/32");
    for (listen, other) in [(&*socket, 0), ("off", 2), ("127.0.0.1:9000", 0)] {
        let env = [
            ("SIDECAST_BGP_LOCAL_AS", "65001"),
            ("SIDECAST_BGP_PEER_AS", "65000"),
            ("SIDECAST_APP_NAME", "dns"),
            ("SIDECAST_APP_VIP", &vip),
            ("SIDECAST_APP_DRAIN_TIME", "0s"),
            ("SIDECAST_AGENT_LISTEN_ADDR", listen),
        ];
        let mut sidecast = Sidecast::launch(&site.a.network, &[], &env);
        until(PATIENCE, "it is alive", || {
            sidecast.must_run();
            let (code, report) = run(&site.a.network, &["healthcheck"], &env);
            expect(code == 0, report)
        });
        // What cannot do without the listener says so.
        let (code, report) = run(&site.a.network, &["drain"], &env);
        assert_eq!(code, other, "{listen}: {report}");
        assert_eq!(report.contains("agent.listen_addr"), other == 2, "{report}");
        sidecast.kill();
        let code = run(&site.a.network, &["healthcheck"], &env).0;
        assert_eq!(code, if listen == "off" { 0 } else { 1 }, "{listen}");
    }
}

/// An engine runs `HEALTHCHECK` and `docker exec` with the container's environment, not with its arguments.
fn beside_the_first_process_the_file_need_not_be_named() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let agent = "agent: {listen_addr: \"127.0.0.1:9000\", api_token: s3cret, drain_time: 0s}\n";
    let config = agent.to_owned() + &site.a.config("", "");
    let file = Sidecast::write(&site.a.network, &config);
    // Called as in the image, whatever the binary under test is called.
    let dir = site.lab.dir();
    let [program, file] = [dir.join("sidecast"), file].map(|path| path.display().to_string());
    copy_program(binary(), &program);
    let args = [
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        &program,
        "--config",
        &file,
    ];
    let container = Child::start(&site.a.network, "container", "unshare", &args, &[]);
    site.answered_by("a", PATIENCE);
    let path = format!("/proc/{0}/task/{0}/children", container.id());
    let children = std::fs::read_to_string(path).expect("a process of ours");
    let first = format!("--target={}", children.trim());
    let beside = |command: &str| {
        let args = [&*first, "--pid", "--mount", &program, command];
        let output = site.a.network.enter(|| {
            let mut enter = Command::new("nsenter");
            enter.args(args).env_clear().env("PATH", PATH).output()
        });
        let output = output.expect("it runs");
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), report)
    };
    assert_eq!(beside("healthcheck"), (Some(0), String::new()));
    assert_eq!(beside("drain"), (Some(0), String::new()));
    site.unanswered();
}

fn check_shows_a_mistake_of_form_in_its_line() {
    let site = Site::new();
    for (config, want) in [
        (
            "bgp:\n\tlocal_as: 1\n",
            ":2: has a tab: YAML is indented with spaces alone\n  2 | →local_as: 1\n    | ^\n",
        ),
        (
            "bgp:\n  local_as: 1\n   peer_as: 2\n",
            ":3: is deeper than the key above",
        ),
        (
            "bgp:\n  password: \"geheim\n",
            ":2: this quote is never closed\n  2 |   password:…\n",
        ),
    ] {
        let file = Sidecast::write(&site.a.network, config);
        let file = file.display().to_string();
        let (code, report) = run(&site.a.network, &["check", "--config", &file], &[]);
        assert_eq!(code, 2, "{report}");
        assert!(report.contains(want), "{want}: {report}");
        assert!(
            !report.contains("geheim") && !report.contains("while "),
            "{report}"
        );
    }
}

fn check_warns_of_a_zero_that_is_the_default() {
    let site = Site::new();
    let check = |agent: &str| {
        let config = format!("agent: {{{agent}}}\n{}", site.a.config("", ""));
        let file = Sidecast::write(&site.a.network, &config);
        let file = file.display().to_string();
        run(&site.a.network, &["check", "--config", &file], &[])
    };
    let (code, report) = check("cleanup_timer: 0");
    assert_eq!(code, 0, "{report}");
    assert!(
        report.contains("agent.cleanup_timer: 0 means the default, as in GoCast"),
        "{report}"
    );
    let (code, report) = check("max_connections: 0");
    assert_eq!(code, 2, "{report}");
    assert!(report.contains("should be a number from 1 to"), "{report}");
}

/// Into a closed pipe and onto a device that is full.
fn no_command_dies_of_what_it_writes_to() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = "agent: {drain_time: 0s}\n".to_owned() + &site.a.config("", "");
    let _sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    let file = Sidecast::write(&site.a.network, &config);
    let file = file.to_str().expect("text");
    let help = output(&site.a.network, &["--help"], Stdio::piped());
    let help = String::from_utf8(help.stdout).expect("text");
    let (_, listed) = help.split_once("commands:\n").expect("a list");
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> = listed.filter_map(|l| l.split_whitespace().next()).collect();
    assert!(names.contains(&"register") && names.len() > 9, "{names:?}");
    let mut lines: Vec<Vec<&str>> = names.iter().map(|name| vec![*name, "--help"]).collect();
    lines.extend([
        vec!["--help"],
        vec!["--version"],
        vec!["frobnicate"],
        vec!["check", file],
        vec!["check", "--quiet", file],
        vec!["check", "/nonexistent"],
        vec!["demo"],
        vec!["status"],
        vec!["status", "--json"],
        vec!["status", "--down"],
        vec!["status", "nobody"],
        vec!["register", "web", "192.0.2.80/32"],
        vec!["unregister", "web"],
        vec!["reload"],
        vec!["drain"],
        vec!["undrain"],
        vec!["healthcheck"],
    ]);
    let mut spoke = 0;
    for args in &lines {
        let calm = output(&site.a.network, args, Stdio::piped());
        let code = calm.status.code();
        assert!(code.is_some(), "{args:?}: {calm:?}");
        let closed = output(&site.a.network, args, unread());
        let report = String::from_utf8_lossy(&closed.stderr);
        assert_eq!(closed.status.code(), code, "{args:?}: {report}");
        assert!(!report.contains("roken pipe"), "{args:?}: {report}");
        let full = output(&site.a.network, args, full());
        let report = String::from_utf8_lossy(&full.stderr);
        let speaks = !calm.stdout.is_empty();
        let want = if speaks { Some(1) } else { code };
        assert_eq!(full.status.code(), want, "{args:?}: {report}");
        assert_eq!(
            report.contains("No space left"),
            speaks,
            "{args:?}: {report}"
        );
        spoke += u32::from(speaks);
        for err in [unread(), self::full()] {
            let mut command = Command::new(binary());
            command
                .args(args)
                .env_clear()
                .stdout(Stdio::null())
                .stderr(err);
            let status = site.a.network.enter(|| command.status()).expect("it runs");
            assert_eq!(
                status.code(),
                code,
                "{args:?}: its standard error is closed"
            );
        }
    }
    assert!(spoke > 15, "{spoke} of them wrote anything");
    // What would go on forever ends with its reader.
    let watched = output(&site.a.network, &["status", "--watch"], unread());
    assert!(watched.status.code().is_some(), "{watched:?}");
    let watched = output(&site.a.network, &["status", "--watch"], full());
    assert_eq!(watched.status.code(), Some(1));
}

fn an_announcer_outlives_who_reads_its_log() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let file = Sidecast::write(&site.a.network, &site.a.config("", ""));
    let mut announcer = site.a.network.enter(|| {
        let mut command = Command::new(binary());
        command.arg("--config").arg(file).env_clear();
        let running = command
            .stdin(Stdio::null())
            .stdout(unread())
            .stderr(unread());
        running.spawn().expect("it runs")
    });
    site.answered_by("a", PATIENCE);
    let pid = i32::try_from(announcer.id()).expect("a pid");
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is there");
    let status = announcer.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
    site.unanswered();
}

fn status_shows_one_app_or_what_is_down() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let _sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    site.answered_by("a", PATIENCE);
    let status = |args: &[&str]| {
        let args = [&["status"], args].concat();
        let output = output(&site.a.network, &args, Stdio::piped());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let well = || {
        expect(
            status(&["dns"]).0 == Some(0),
            format!("{:?}", status(&["dns"])),
        )
    };
    until(PATIENCE, "all is well", well);
    let (code, text, _) = status(&["--down"]);
    assert_eq!(code, Some(0));
    let want = "ok: 1 of 1 apps up, 1 of 1 sessions established\n\
        warning: a wildcard UDP service without a `vip` monitor: dns\n\nnothing is down: 1 peer, 1 app\n";
    assert_eq!(text, want);

    let long = "n".repeat(250);
    let args = [
        "register",
        &long,
        "192.0.2.99/32",
        "--monitor",
        "port:tcp:9",
    ];
    assert_eq!(run(&site.a.network, &args, &[]), (0, String::new()));
    let down = || expect(status(&[&long]).1.contains("down"), status(&[]).1);
    until(PATIENCE, "the other is down", down);
    let (code, text, _) = status(&[]);
    assert_eq!(code, Some(1));
    assert!(!text.contains('\x1b'), "this is no terminal: {text:?}");
    let at = |what: &str| {
        text.find(what)
            .unwrap_or_else(|| panic!("no {what} in {text}"))
    };
    assert!(at(&long) < at("\ndns"), "what is down stands first: {text}");
    // In the line below the long name, and where the other app has it.
    let column = |vip: &str| {
        let line = text
            .lines()
            .find(|line| line.contains(vip))
            .expect("a line");
        line.find(vip)
    };
    assert_eq!(
        column("192.0.2.99/32"),
        column(&format!("{VIP4}/32")),
        "{text}"
    );
    let (code, text, _) = status(&["--down"]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&long) && !text.contains("\ndns"), "{text}");
    let (code, text, _) = status(&["dns"]);
    assert_eq!(code, Some(0), "of this app: {text}");
    assert!(!text.contains(&long), "{text}");
    let (code, text, report) = status(&["dnss"]);
    assert_eq!((code, text.as_str()), (Some(1), ""));
    assert_eq!(report, "sidecast: no app `dnss`; did you mean `dns`?\n");
}

/// `/etc/sidecast/config.yaml` names a socket of its own; to whom may not read it, a hint does.
fn the_usual_configuration_names_the_address() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let program = lab.dir().join("sidecast");
    copy_program(binary(), &program);
    let config = "{agent: {listen_addr: 127.0.0.1:9000}, bgp: {local_as: 65001, peer_as: 65000, peer_ip: 10.9.9.9}}";
    let file = Sidecast::write(&host, config);
    for path in [lab.dir(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let asks = |mode: &str, first: &str| {
        // A process of its own that sees another /etc; nothing is written to this machine's.
        let script = format!(
            "mount -t tmpfs none /etc && mkdir /etc/sidecast && cp {file} /etc/sidecast/config.yaml && \
             chmod {mode} /etc/sidecast/config.yaml && {first} && \
             exec setpriv --reuid=65534 --regid=65534 --clear-groups {program} status",
            file = file.display(),
            program = program.display(),
        );
        let output = host.enter(|| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &script]);
            command.env_clear().env("PATH", PATH).output()
        });
        let output = output.expect("it runs");
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let report = asks("644", "true");
    assert!(
        report.contains("nothing answers at 127.0.0.1:9000"),
        "{report}"
    );
    assert!(!report.contains("passed over"), "{report}");
    for (mode, first) in [("600", "true"), ("644", "chmod 700 /etc/sidecast")] {
        let report = asks(mode, first);
        assert!(
            report.contains("nothing answers at 127.0.0.1:8179"),
            "{report}"
        );
        let hint = "/etc/sidecast/config.yaml was passed over: Permission denied";
        assert!(report.contains(hint), "{report}");
    }
}

/// What is typed, and what a shell makes of it when there is one way to go on.
const TYPED: &[(&str, &str)] = &[
    ("sidecast che", "sidecast check"),
    ("sidecast status --dow", "sidecast status --down"),
    (
        "sidecast check -q --addr x --conf",
        "sidecast check -q --addr x --config",
    ),
    ("sidecast --log-format js", "sidecast --log-format json"),
    ("sidecast help undr", "sidecast help undrain"),
    (
        "sidecast -c x completions z",
        "sidecast -c x completions zsh",
    ),
    ("sidecast --dry", "sidecast --dry-run"),
    ("sidecast drain d", "sidecast drain dns"),
];

/// A shell that has read its script, beside an announcer that has an app `dns`. The script is given the lines of
/// [`TYPED`] and prints a line for each.
fn completed(shell: &str, args: &[&str]) -> Vec<String> {
    let site = Site::new();
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    sidecast.wait_for_api(&site.a.network);
    let dir = site.lab.dir();
    copy_program(binary(), dir.join("sidecast"));
    let name = shell.rsplit('/').next().expect("a name");
    let script = output(&site.a.network, &["completions", name], Stdio::piped());
    fs::write(dir.join("_sidecast"), script.stdout).expect("ours");
    let output = site.a.network.enter(|| {
        let mut command = Command::new(shell);
        command
            .args(args)
            .args(TYPED.iter().map(|(typed, _)| typed));
        let path = format!("{}:{PATH}", dir.display());
        command.env_clear().env("PATH", path).env("HOME", dir);
        command.env("TERM", "xterm").current_dir(dir).output()
    });
    let output = output.expect("it runs");
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn bash_offers_what_the_program_takes() {
    let script = r#"
        source ./_sidecast
        for typed; do
            read -ra COMP_WORDS <<<"$typed"
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _sidecast
            unset "COMP_WORDS[COMP_CWORD]"
            echo "${COMP_WORDS[*]} ${COMPREPLY[*]}"
        done
    "#;
    let want: Vec<&str> = TYPED.iter().map(|(_, whole)| *whole).collect();
    assert_eq!(completed("bash", &["-c", script, "bash"]), want);
}

fn zsh_offers_what_the_program_takes() {
    // Completion needs a terminal of its own.
    let script = r#"
        zmodload zsh/zpty
        zpty z zsh -f -i
        zpty -w z 'PS1=; unsetopt prompt_sp; fpath=($PWD $fpath); autoload -U compinit; compinit -D -u'
        zpty -w z 'show() { print -r -- "GOT<$BUFFER>"; BUFFER=; }; zle -N show; bindkey "^X" show; print READY'
        local out
        zpty -r -m z out '*READY*READY*'
        for typed; do
            zpty -w -n z "$typed"$'\t\C-x'
            zpty -r -m z out '*GOT<*>*' && print -r -- ${${out##*GOT<}%%>*}
        done
        zpty -d z
    "#;
    let want: Vec<&str> = TYPED.iter().map(|(_, whole)| *whole).collect();
    // With a value behind it, zsh writes the `=` too.
    let got = completed("zsh", &["-f", "-c", script, "zsh"]);
    let got: Vec<&str> = got.iter().map(|line| line.trim_end_matches('=')).collect();
    assert_eq!(got, want);
}

fn fish_offers_what_the_program_takes() {
    let script = r#"
        source ./_sidecast
        for typed in $argv
            set -l words (string split ' ' -- $typed)
            set -e words[-1]
            echo $words (complete -C "$typed" | string split -f 1 \t)
        end
    "#;
    let want: Vec<&str> = TYPED.iter().map(|(_, whole)| *whole).collect();
    assert_eq!(completed("fish", &["-N", "-c", script]), want);
}

fn the_manual_is_rendered_without_a_warning() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    for (section, words) in [
        ("8", "sidecast register NAME VIP"),
        ("5", "monitor_interval"),
    ] {
        let page = output(&host, &["man", section], Stdio::piped()).stdout;
        let file = lab.dir().join(format!("sidecast.{section}"));
        fs::write(&file, page).expect("ours");
        for locale in ["C", "C.UTF-8"] {
            let mut man = Command::new("man");
            man.args(["--local-file", "--warnings"]).arg(&file);
            man.env_clear()
                .env("PATH", PATH)
                .env("LC_ALL", locale)
                .env("MANWIDTH", "100");
            let output = man.output().expect("it runs");
            let warned = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && warned.is_empty(), "{warned}");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(words) && text.lines().count() > 100, "{text}");
        }
    }
}

/// Standard error and exit code of one command; its standard output goes to `out`.
#[track_caller]
fn output(network: &Namespace, args: &[&str], stdout: Stdio) -> Output {
    let mut command = Command::new(binary());
    command.args(args).env_clear().stdin(Stdio::null());
    command.stdout(stdout).stderr(Stdio::piped());
    let child = network.enter(|| command.spawn()).expect("it runs");
    child.wait_with_output().expect("it ends")
}

/// The writing end of a pipe whose reader has gone.
fn unread() -> Stdio {
    let (_, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    writer.into()
}

fn full() -> Stdio {
    let device = fs::OpenOptions::new().write(true).open("/dev/full");
    device.expect("it is there").into()
}

/// The exit code of one command, and what it complained of.
#[track_caller]
fn run(network: &Namespace, args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let output = network.enter(|| {
        let mut command = Command::new(binary());
        command.args(args).env_clear().envs(env.iter().copied());
        command.output()
    });
    let output = output.expect("it runs");
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it was not killed"), report)
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
