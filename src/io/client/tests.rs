use super::*;
use nix::sys::socket::{Backlog, listen};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};
use ureq::config::Config;
use ureq::unversioned::resolver::ResolvedSocketAddrs;
use ureq::unversioned::transport::NextTimeout;

/// Answers one connection after the other with these bytes, each of which it then ends. The requests.
fn serve(answers: &[&[u8]]) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.to_vec()).collect();
    let server = thread::spawn(move || {
        let answer = |bytes: Vec<u8>| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut buf = [0; 1024];
                let count = stream.read(&mut buf).unwrap();
                assert!(count > 0, "the request ends early");
                seen.extend(&buf[..count]);
            }
            // The client may have read enough.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            String::from_utf8(seen).unwrap()
        };
        answers.into_iter().map(answer).collect()
    });
    (url, server)
}

fn get(url: &str) -> Result<HttpResponse, Error> {
    get_with(&client(), url, &[], LIMIT)
}

fn get_with(
    client: &Client,
    url: &str,
    headers: &[(&str, &str)],
    limit: Duration,
) -> Result<HttpResponse, Error> {
    client.fetch(&HttpRequest {
        url,
        headers,
        form: None,
        limit,
        connect: limit,
    })
}

fn client() -> Client {
    Client::new(None, TlsFiles::default())
}

fn whole(answer: &[u8]) -> Result<Vec<u8>, Error> {
    let (url, server) = serve(&[answer]);
    let body = get(&url).and_then(|answer| answer.read_all(1000));
    server.join().unwrap();
    body
}

#[test]
fn half_an_answer_is_none() {
    let chunked = b"HTTP/1.1 200 OK\r\nX-A: 7\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n1\r\n \r\n6\r\nworld!\r\n0\r\n\r\n";
    assert_eq!(whole(chunked).unwrap(), b"hello world!");
    let sized = b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nnull";
    assert_eq!(whole(sized).unwrap(), b"null");
    for (answer, end) in [(&chunked[..], chunked.len() - 4), (sized, sized.len())] {
        for end in (0..end).rev() {
            let cut = whole(&answer[..end]);
            assert!(matches!(cut, Err(Error::Io(_))), "{end}: {cut:?}");
        }
    }
    assert_eq!(whole(b"HTTP/1.0 200 OK\r\n\r\n{}").unwrap(), b"{}");
    let no_content = b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(whole(no_content).unwrap(), b"");
    for foreign in [
        &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ] {
        let answer = whole(foreign);
        assert!(matches!(answer, Err(Error::InvalidHttp(_))), "{answer:?}");
    }
    let long = [b"HTTP/1.1 200 OK\r\n\r\n", [b'x'; 2000].as_slice()].concat();
    let error = whole(&long).unwrap_err();
    assert!(error.to_string().contains("more than 1000"), "{error}");
}

#[test]
fn redirects_are_not_followed_and_a_status_is_no_error() {
    let moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n";
    let early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 404 No\r\n\r\n";
    let (url, server) = serve(&[moved, early]);
    assert_eq!(get(&url).unwrap().status(), 302);
    assert_eq!(get(&url).unwrap().status(), 404);
    server.join().unwrap();
}

#[test]
fn given_headers_replace_ours_and_cannot_break_out() {
    let ok = &b"HTTP/1.1 204 No\r\n\r\n"[..];
    let (url, server) = serve(&[ok, ok]);
    let headers = [
        ("Host", "service.example"),
        ("x-a", "1\r\nX-B: 2"),
        ("accept", "text/plain"),
    ];
    let place = format!("{url}/healthz?x={{<a>}}#");
    get_with(&client(), &place, &headers, LIMIT).unwrap();
    get(&url).unwrap();
    let seen = server.join().unwrap();
    let (first, second) = (seen[0].to_lowercase(), seen[1].to_lowercase());
    assert!(
        first.starts_with("get /healthz?x={%3ca%3e} http/1.1\r\n"),
        "{first}"
    );
    for line in [
        "host: service.example",
        "x-a: 1x-b: 2",
        "accept: text/plain",
    ] {
        assert!(first.contains(&format!("\r\n{line}\r\n")), "{first}");
    }
    assert_eq!(first.matches("\r\nhost: ").count(), 1);
    let host = url.strip_prefix("http://").unwrap();
    let agent = format!("user-agent: {USER_AGENT}");
    for line in [
        format!("host: {host}").as_str(),
        &agent,
        "accept: */*",
        "connection: close",
    ] {
        assert!(second.contains(&format!("\r\n{line}\r\n")), "{second}");
    }
}

/// What an operator may write into `headers` and `url` ends in an answer or an error.
#[test]
fn odd_requests_do_no_harm() {
    for (name, value) in [
        ("Content-Length", "5"),
        ("Content-Length", "x"),
        ("Transfer-Encoding", "chunked"),
        ("Expect", "100-continue"),
        ("Connection", "keep-alive, upgrade"),
        ("Host", ""),
        ("Host", "\u{fc}"),
        ("Authorization", "\u{fc}"),
        ("X", ""),
        ("", "x"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            if let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let limit = Duration::from_millis(300);
        let asked = get_with(&client(), &url, &[(name, value)], limit);
        let _ = asked.and_then(|answer| answer.read_all(10));
    }
    let all: String = (b'!'..=b'~')
        .map(char::from)
        .filter(|c| *c != '#')
        .collect();
    assert!(uri(&format!("http://h/{all}?{all}")).is_ok());
}

/// Nothing that a server sends makes a panic.
#[test]
fn odd_answers_do_no_harm() {
    let heads: &[&[u8]] = &[
        b"HTTP/1.1 000 x\r\n\r\n",
        b"HTTP/1.1 999 x\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nabc",
        b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \xff\xfe\t\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"",
    ];
    for head in heads {
        let _ = whole(head);
    }
    let many: Vec<u8> = (0..500)
        .flat_map(|n| format!("X-{n}: y\r\n").into_bytes())
        .collect();
    let many = [b"HTTP/1.1 200 OK\r\n", many.as_slice(), b"\r\n"].concat();
    let _ = whole(&many);
}

#[test]
fn a_long_head_is_read_up_to_a_bound() {
    let head = |length: usize| {
        let field = "x".repeat(length);
        format!("HTTP/1.1 200 OK\r\nX: {field}\r\nContent-Length: 2\r\n\r\nhi").into_bytes()
    };
    let (long, endless) = (head(9_000), head(70_000));
    let (url, server) = serve(&[&long, &long, &endless, &endless, &endless]);
    assert_eq!(get(&url).unwrap().read_all(10).unwrap(), b"hi");
    let error = get(&url).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("too big"), "{error}");
    assert_eq!(server.join().unwrap().len(), 5);
}

#[test]
fn a_request_is_repeated_for_the_first_long_head_only() {
    let head = |length: usize| {
        let field = "x".repeat(length);
        format!("HTTP/1.1 204 No\r\nX: {field}\r\n\r\n").into_bytes()
    };
    let client = client();
    let requests = |length: usize| {
        let head = head(length);
        // More answers than are asked for: the rest of them is taken below.
        let (url, server) = serve(&[head.as_slice(); 9]);
        let answer = get_with(&client, &url, &[], LIMIT);
        let addr = url.strip_prefix("http://").unwrap();
        while !server.is_finished() {
            let rest = std::net::TcpStream::connect(addr);
            let _ = rest.and_then(|mut stream| stream.write_all(b"rest\r\n\r\n"));
        }
        let seen = server.join().unwrap();
        let asked = seen.iter().filter(|request| request.starts_with("GET"));
        (answer.is_ok(), asked.count())
    };
    assert_eq!(requests(100), (true, 1));
    assert_eq!(requests(9_000), (true, 2));
    assert_eq!(requests(9_000), (true, 1));
    assert_eq!(requests(40_000), (true, 2));
    assert_eq!(requests(40_000), (true, 1));
    assert_eq!(requests(70_000), (false, 1));
}

#[test]
fn one_limit_holds_for_the_whole_exchange() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
        // The head is over in time on a busy machine too; the body never is.
        let head = head.iter().map(|byte| (byte, 1));
        for (byte, ms) in head.chain(std::iter::repeat((&b'x', 10))) {
            if stream.write_all(&[*byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(ms));
        }
    });
    let began = Instant::now();
    let limit = Duration::from_secs(2);
    let answer = get_with(&client(), &url, &[], limit).unwrap();
    let error = answer.read_all(1000).unwrap_err();
    let took = began.elapsed();
    assert!(matches!(error, Error::TimedOut), "{error:?}");
    // The body would take ten seconds.
    assert!(took >= limit && took < limit * 4, "{took:?}");
}

#[test]
fn an_address_that_is_silent_does_not_hide_the_next() {
    #[derive(Debug)]
    struct Both([SocketAddr; 2]);
    impl Resolver for Both {
        fn resolve(
            &self,
            _: &Uri,
            _: &Config,
            _: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            let mut found = self.empty();
            self.0.into_iter().for_each(|addr| found.push(addr));
            Ok(found)
        }
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    listen(&silent, Backlog::new(0).unwrap()).unwrap();
    let addr = silent.local_addr().unwrap();
    // The accept queue is full: further connections are not answered.
    let _crowd = std::net::TcpStream::connect(addr).unwrap();
    let (url, server) = serve(&[b"HTTP/1.1 204 No\r\n\r\n"]);
    let good = url.strip_prefix("http://").unwrap().parse().unwrap();
    let both = agent_with(None, TlsConfig::default(), Both([addr, good]));
    let client = Client {
        plain: both,
        ..client()
    };
    let began = Instant::now();
    let answer = client.fetch(&HttpRequest {
        url: &url,
        headers: &[],
        form: None,
        limit: LIMIT,
        connect: LIMIT / 10,
    });
    assert_eq!(answer.unwrap().status(), 204);
    // Of the timeout for the whole exchange the first address would take two thirds.
    assert!(began.elapsed() < LIMIT / 2, "{:?}", began.elapsed());
    server.join().unwrap();
}

#[test]
fn no_listener_and_a_bad_answer_are_different_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = get(&url).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("connecting to 127.0.0.1:"), "{text}");
    let cause = error.cause().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused, "{text}");
    let error = get("http://nowhere.invalid/").map(|_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("looking up nowhere.invalid: "),
        "{error}"
    );
}

#[test]
fn a_unix_socket_is_asked_and_waited_for_no_longer_than_allowed() {
    let folder = std::env::temp_dir().join(format!("sidecast-client-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("s");
    let client = Client::new(Some(path.clone()), TlsFiles::default());
    let fetch = |limit| get_with(&client, "http://localhost/x", &[], limit);
    let error = fetch(LIMIT).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::ConnectFailed(..)), "{error:?}");

    let listener = UnixListener::bind(&path).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buf = [0; 1000];
        let count = stream.read(&mut buf).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            .unwrap();
        (
            String::from_utf8_lossy(&buf[..count]).to_lowercase(),
            listener,
        )
    });
    assert_eq!(fetch(LIMIT).unwrap().read_all(10).unwrap(), b"hi");
    let (seen, _listener) = server.join().unwrap();
    assert!(seen.starts_with("get /x http/1.1\r\n") && seen.contains("\r\nhost: localhost\r\n"));

    // The server does not accept: the first waits for its answer, the next for room.
    let limit = Duration::from_millis(200);
    for _ in 0..3 {
        let began = Instant::now();
        assert!(fetch(limit).is_err());
        let took = began.elapsed();
        assert!(took >= limit && took < LIMIT * 2, "{took:?}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn files_that_hang_hold_one_thread_and_only_until_they_are_read() {
    let folder = std::env::temp_dir().join(format!("sidecast-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let ca = folder.join("ca");
    mkfifo(&ca, Mode::S_IRWXU).unwrap();
    let files = TlsFiles {
        ca: Some(ca.clone()),
        ..TlsFiles::default()
    };
    let client = Client::new(None, files);
    let fetch = |limit| get_with(&client, "https://127.0.0.1:1/", &[], limit).map(|_| ());
    thread::scope(|scope| {
        let reads = scope.spawn(|| fetch(LIMIT));
        while !client.tls().reading {
            thread::yield_now();
        }
        for _ in 0..3 {
            let began = Instant::now();
            let error = fetch(Duration::from_millis(100)).unwrap_err();
            assert!(matches!(error, Error::FilesTimedOut), "{error:?}");
            assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
        }
        assert!(!reads.is_finished());
        // Opening the FIFO for writing unblocks the thread.
        std::fs::write(&ca, "").unwrap();
        let error = reads.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("holds no certificate"), "{error}");
    });
    std::fs::remove_file(&ca).unwrap();
    let error = fetch(LIMIT).unwrap_err();
    assert!(matches!(error, Error::Io(_)), "{error:?}");
    std::fs::remove_dir_all(&folder).unwrap();
}

const LIMIT: Duration = Duration::from_secs(10);
