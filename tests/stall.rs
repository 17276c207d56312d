//! What hangs holds nothing up: a log that nobody reads, files and programs on a file system that does not
//! answer. A killed service is withdrawn as fast as ever.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use sidecast_lab::{Bird, Change, Routes, Service, Sidecast, Site, Transport, VIP4};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        a_full_pipe_as_log_holds_nothing_up,
        a_log_socket_whose_reader_stopped_holds_nothing_up;
}

fn a_full_pipe_as_log_holds_nothing_up() {
    let (_reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    // A descriptor of our own: the flag belongs to what both share otherwise.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let ours = nix::fcntl::open(&*path, flags, nix::sys::stat::Mode::empty()).expect("a pipe");
    while nix::unistd::write(&ours, b"x") != Err(Errno::EAGAIN) {}
    logs_to(writer);
}

fn a_log_socket_whose_reader_stopped_holds_nothing_up() {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (_reader, writer) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, flags).expect("a pair");
    let full = Err(Errno::EAGAIN);
    while send(writer.as_raw_fd(), b"x", MsgFlags::MSG_DONTWAIT) != full {}
    logs_to(writer);
}

/// Nobody reads this log: the service is withdrawn and comes back all the same, and at the end the process
/// waits for nobody.
fn logs_to(stderr: OwnedFd) {
    let stage = Stage::new();
    let config = stage.config("");
    let mut sidecast = Sidecast::start_with_stderr(&stage.site.a.network, &config, stderr);
    stage.withdraws_at_once();
    let begun = Instant::now();
    sidecast.signal(Signal::SIGTERM);
    let status = sidecast.wait(PATIENCE);
    assert!(status.success(), "{status}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
}

/// A host with a service, whose router is BIRD.
struct Stage {
    service: std::cell::RefCell<Service>,
    fib: Routes,
    _router: Bird,
    site: Site,
}

impl Stage {
    fn new() -> Self {
        let site = Site::new();
        let service = Service::start(&site.a.network, Transport::Tcp, Site::TCP_PORT);
        let router = Bird::router(&site.router, &[site.a.session("a")]);
        let fib = Routes::listen(&site.router);
        Self {
            service: service.into(),
            fib,
            _router: router,
            site,
        }
    }

    /// One app with a monitor that only the kernel's word fires in time; `agent` are lines of that section.
    fn config(&self, agent: &str) -> String {
        format!(
            "agent: {{drain_time: 0s, {agent}}}\n\
             bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}}}\n\
             apps:\n\
             - {{name: dns, vip: {VIP4}/32, monitors: [\"port:tcp:8000\"], interval: 10s, hold_down: \"off\"}}\n",
            self.site.a.addresses.router4
        )
    }

    /// Kills the service and brings it back, some times; each time the router's kernel loses the route.
    #[track_caller]
    fn withdraws_at_once(&self) {
        let vip: IpAddr = VIP4.parse().expect("an address");
        self.fib.wait(Change::Added, vip, PATIENCE);
        let mut service = self.service.borrow_mut();
        let mut times = Vec::new();
        for _ in 0..5 {
            let begun = Instant::now();
            service.signal(Signal::SIGKILL);
            times.push(self.fib.wait(Change::Removed, vip, PATIENCE) - begun);
            service.kill();
            service.restart(&self.site.a.network);
            self.fib.wait(Change::Added, vip, PATIENCE);
        }
        times.sort();
        println!("killed to gone from the FIB: {times:?}");
        assert!(times[2] < Duration::from_millis(20), "{times:?}");
    }
}

/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
