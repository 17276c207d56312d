//! The HTTP server over real sockets on loopback: what a client sends, however rude, ends in an
//! answer or a closed connection, and the next client is served.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sidecast::api::{Request, Response};
use sidecast::io::http::{Call, CallKind, Limits, Listener, serve};
use sidecast::timer::Rng;
use smol::channel::Sender;
use smol::future;

/// A server with a stand-in for the agent that tells back what it understood.
struct Server {
    addr: SocketAddr,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        Self::with(limits, Vec::new)
    }

    fn with(limits: Limits, more: impl FnOnce() -> Vec<Listener> + Send + 'static) -> Self {
        let (tell, address) = mpsc::channel();
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        let thread = thread::spawn(move || {
            let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let mut listeners = more();
            listeners.push(listener);
            let (calls, inbox) = smol::channel::bounded::<Call>(4);
            let agent = async {
                while let Ok(call) = inbox.recv().await {
                    let CallKind::Request(request) = &call.kind else {
                        panic!("no answer of the echo has more pieces");
                    };
                    let response = echo(request);
                    call.answer(response);
                }
            };
            let executor = Rc::default();
            serve(&executor, listeners, limits, calls);
            smol::block_on(executor.run(future::or(agent, async {
                let _ = stopped.recv().await;
            })));
        });
        Self {
            addr: address.recv().unwrap(),
            stop,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends and reads until the server closes.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        read_to_end(&mut stream)
    }

    fn status(&self, bytes: &[u8]) -> u16 {
        status_of(&self.exchange(bytes))
    }

    fn is_alive(&self) {
        let answer = self.exchange(b"GET /alive HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.contains("GET /alive []"), "{answer}");
    }

    /// Waits until there is a place for a connection again.
    #[track_caller]
    fn has_a_place(&self) {
        let began = Instant::now();
        while self.status(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n") != 200 {
            assert!(
                began.elapsed() < PATIENCE,
                "the places were never given back"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.try_send(());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}

fn echo(request: &Request) -> Response {
    if request.path == "/large" {
        return Response::text(200, &"x".repeat(8 << 20));
    }
    let line = format!("{:?} {} {:?}", request.method, request.path, request.params);
    Response::text(200, &line.replace("Get", "GET").replace("Post", "POST"))
}

fn read_to_end(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break,
            Err(e) => panic!("the server neither answered nor closed: {e}"),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one answer with a Content-Length and leaves the connection open.
fn read_one(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length: usize = head
        .split("Content-Length: ")
        .nth(1)
        .and_then(|rest| rest.split("\r\n").next())
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn status_of(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0)
}

fn quick() -> Limits {
    Limits {
        head: Duration::from_millis(300),
        body: Duration::from_millis(300),
        idle: Duration::from_millis(600),
        write: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[test]
fn both_versions_and_keep_alive() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect();
    for round in 0..3 {
        write!(stream, "GET /a?x={round} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let answer = read_one(&mut stream);
        assert!(answer.contains(&format!("GET /a [(\"x\", \"{round}\")]")));
        assert!(answer.contains("Connection: keep-alive"));
    }
    stream
        .write_all(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert!(read_to_end(&mut stream).contains("Connection: close"));
    let mut stream = server.connect();
    stream.write_all(b"GET /a HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(status_of(&read_to_end(&mut stream)), 200);
}

#[test]
fn head_has_no_body_and_the_next_answer_follows() {
    let server = Server::start(Limits::default());
    let answer = server.exchange(
        b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2);
    assert!(!answer.contains("/a []"));
    assert!(answer.contains("GET /b []"));
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let server = Server::start(Limits::default());
    let mut bytes = String::new();
    for n in 0..50 {
        bytes += &format!(
            "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\nn={n}",
            format!("n={n}").len()
        );
    }
    let answer = server.exchange(bytes.as_bytes());
    let mut at = 0;
    for n in 0..50 {
        let wanted = format!("POST /p [(\"n\", \"{n}\")]");
        at += answer[at..].find(&wanted).expect(&wanted);
    }
}

#[test]
fn form_json_and_chunked_bodies() {
    let server = Server::start(Limits::default());
    let post = |headers: &str, body: &str| {
        server.exchange(format!("POST /r HTTP/1.1\r\nHost: h\r\n{headers}\r\n{body}").as_bytes())
    };
    assert!(post("Content-Length: 7\r\n", "a=1&a=2").contains("[(\"a\", \"1\"), (\"a\", \"2\")]"));
    let json = post(
        "Content-Type: application/json\r\nContent-Length: 13\r\n",
        "{\"a\":[\"x\",2]}",
    );
    assert!(json.contains("[(\"a\", \"x\"), (\"a\", \"2\")]"));
    let chunked = post("Transfer-Encoding: chunked\r\n", "3\r\na=1\r\n0\r\n\r\n");
    assert!(chunked.contains("[(\"a\", \"1\")]"));
    let bad = post(
        "Content-Type: application/json\r\nContent-Length: 1\r\n",
        "{",
    );
    assert_eq!(status_of(&bad), 400);
    assert!(bad.contains("not valid JSON"));
    let bad = post(
        "Accept: application/json\r\nContent-Type: application/json\r\nContent-Length: 1\r\n",
        "{",
    );
    assert!(
        bad.contains("{\"error\":\"the body is not valid JSON"),
        "{bad}"
    );
}

#[test]
fn expect_100_continue_is_answered() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect();
    stream
        .write_all(
            b"POST /r HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        )
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"a=1").unwrap();
    assert!(read_one(&mut stream).contains("[(\"a\", \"1\")]"));
    // One whose body is too large gets its answer at once.
    let answer = server.exchange(
        b"POST /r HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 99999\r\n\r\n",
    );
    assert_eq!(status_of(&answer), 413);
}

#[test]
fn each_mistake_has_its_status() {
    let server = Server::start(Limits::default());
    let long = "a".repeat(9000);
    let many = "X: y\r\n".repeat(65);
    for (bytes, status) in [
        ("\x16\x03\x01\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: h".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 57345\r\n\r\n".to_owned(),
            413,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: text/xml\r\nContent-Length: 1\r\n\r\nx"
                .to_owned(),
            415,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: x\r\nContent-Length: 1\r\n\r\n".to_owned(),
            417,
        ),
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n"), 431),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            501,
        ),
        ("PRI * HTTP/2.0\r\n\r\n".to_owned(), 505),
    ] {
        assert_eq!(server.status(bytes.as_bytes()), status, "{bytes:.80}");
    }
    server.is_alive();
}

#[test]
fn a_refused_body_does_not_lose_the_answer() {
    let server = Server::start(Limits::default());
    let mut bytes = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n".to_vec();
    bytes.resize(200_000, b'x');
    for _ in 0..20 {
        assert_eq!(server.status(&bytes), 413);
    }
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let server = Server::start(Limits::default());
    let answer = server.exchange(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.contains("GET /a []"));
    // Half a request is answered as well.
    assert_eq!(
        server.status(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx"),
        400
    );
    // And nothing at all with nothing.
    assert_eq!(server.exchange(b""), "");
}

#[test]
fn a_slow_head_and_a_slow_body_are_cut() {
    let server = Server::start(quick());
    for start in [
        "GET / HTTP/1.1\r\nX-Slow: ",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n",
    ] {
        let mut stream = server.connect();
        stream.write_all(start.as_bytes()).unwrap();
        let began = Instant::now();
        let mut writer = stream.try_clone().unwrap();
        let drip = thread::spawn(move || {
            for _ in 0..1000 {
                if writer.write_all(b"a").is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let answer = read_to_end(&mut stream);
        assert_eq!(status_of(&answer), 408, "{answer}");
        // The client would go on for twenty seconds.
        assert!(began.elapsed() < Duration::from_secs(10));
        drop(stream);
        drip.join().unwrap();
    }
    server.is_alive();
}

#[test]
fn an_idle_connection_is_closed_without_an_answer() {
    let server = Server::start(quick());
    let mut stream = server.connect();
    assert_eq!(read_to_end(&mut stream), "");
    let mut stream = server.connect();
    let began = Instant::now();
    stream
        .write_all(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    read_one(&mut stream);
    assert_eq!(read_to_end(&mut stream), "");
    assert!(began.elapsed() > Duration::from_millis(400));
}

#[test]
fn a_client_that_does_not_read_loses_its_connection_and_harms_nobody() {
    let server = Server::start(Limits {
        connections: 2,
        ..quick()
    });
    let mut greedy: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for stream in &mut greedy {
        stream
            .write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
    }
    server.has_a_place();
}

#[test]
fn the_sixty_fifth_connection_is_told_that_there_are_too_many() {
    let server = Server::start(Limits {
        head: PATIENCE,
        ..Limits::default()
    });
    let held: Vec<_> = (0..500).map(|_| server.connect()).collect();
    let mut served = 0;
    let mut refused = 0;
    for mut stream in held {
        let _ = stream.write_all(b"GET /a HTTP/1.0\r\n\r\n");
        match status_of(&read_to_end(&mut stream)) {
            200 => served += 1,
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(served + refused, 500);
    assert!(served >= 64, "{served}");
    assert!(refused > 0);
    server.has_a_place();
}

#[test]
fn beyond_max_connections_the_answer_is_503() {
    let server = Server::start(Limits {
        connections: 3,
        ..Limits::default()
    });
    let held: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = server.connect();
            stream
                .write_all(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
                .unwrap();
            read_one(&mut stream);
            stream
        })
        .collect();
    let answer = server.exchange(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(status_of(&answer), 503);
    assert!(answer.contains("Retry-After: 1"));
    let probe = server.exchange(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(
        status_of(&probe),
        200,
        "idle clients do not make a probe fail"
    );
    drop(held);
    server.has_a_place();
}

#[test]
fn a_unix_socket_serves_like_tcp() {
    let path = std::env::temp_dir().join(format!("sidecast-http-{}", std::process::id()));
    let at: PathBuf = path.clone();
    let server = Server::with(Limits::default(), move || {
        vec![Listener::unix(&at).unwrap()]
    });
    server.is_alive();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /u HTTP/1.0\r\n\r\n").unwrap();
    assert!(read_to_end(&mut stream).contains("GET /u []"));
    drop(server);
    assert!(!path.exists(), "the socket file goes with its server");
}

#[test]
fn ten_thousand_garbled_requests_leave_it_serving() {
    let server = Server::start(Limits {
        connections: 8,
        ..quick()
    });
    let valid: [&[u8]; 4] = [
        b"POST /register?name=a&vip=192.0.2.1/32 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nx=1",
        b"POST /drain HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n",
        b"GET /apps/%41?x=%20 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"POST /r HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"a\":[1]}",
    ];
    let mut jitter = Rng::new(SEED);
    let mut below = |bound: usize| usize::try_from(jitter.below(bound as u64)).unwrap();
    for round in 0..10_000 {
        let mut bytes = valid[below(valid.len())].to_vec();
        for _ in 0..=below(5) {
            let at = below(bytes.len());
            match below(5) {
                0 => bytes[at] = u8::try_from(below(256)).unwrap(),
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, u8::try_from(below(256)).unwrap()),
                3 => bytes.truncate(at + 1),
                _ => bytes.extend_from_within(at..),
            }
        }
        let mut stream = server.connect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let answer = read_to_end(&mut stream);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 "),
            "seed {SEED}, round {round}: {answer}"
        );
    }
    server.is_alive();
}

const PATIENCE: Duration = Duration::from_secs(20);
const SEED: u64 = 20_260_101;
