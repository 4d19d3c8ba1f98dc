//! A real browser's `EventSource` reads output with a ticket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use qga_testing::{missing, tied};
use serde_json::{Value, json};

use super::{Here, SOON};

/// Reads all of it, and reports. It knows no token.
const PAGE: &str = r#"<!doctype html><script>
let text = { stdout: "", stderr: "" };
const source = new EventSource("OUTPUT");
for (const stream of ["stdout", "stderr"]) {
  source.addEventListener(stream, (event) => { text[stream] += JSON.parse(event.data).text; });
}
source.addEventListener("exit", (event) => {
  source.close();
  const exit = JSON.parse(event.data);
  fetch("/report", { method: "POST", body: JSON.stringify({ text, code: exit.exit_code }) });
});
</script>"#;

/// One origin for the page and the gateway: what is not the page's goes to the gateway.
fn serve(listener: TcpListener, gateway: SocketAddr, page: String, report: mpsc::Sender<Value>) {
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, page, report) = (client.unwrap(), page.clone(), report.clone());
            thread::spawn(move || drop(answer(client, gateway, &page, &report)));
        }
    });
}

fn answer(
    client: TcpStream,
    gateway: SocketAddr,
    page: &str,
    report: &mpsc::Sender<Value>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        let end = line == "\r\n";
        // One request per connection, so that nothing has to be understood.
        if end {
            head += "connection: close\r\n";
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head += &line;
        }
        if end {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut client = client;
    let mut own = |kind: &str, text: &str| {
        let length = text.len();
        write!(
            client,
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{text}"
        )
    };
    if head.starts_with("GET / ") {
        return own("text/html", page);
    }
    if head.starts_with("POST /report ") {
        drop(report.send(serde_json::from_slice(&body).unwrap_or_default()));
        return own("text/plain", "");
    }
    let mut upstream = TcpStream::connect(gateway)?;
    upstream.write_all(head.as_bytes())?;
    upstream.write_all(&body)?;
    std::io::copy(&mut upstream, &mut client).map(drop)
}

#[test]
fn an_event_source_reads_output_with_a_ticket() {
    if qga_testing::program("chromium").is_none() {
        missing("no chromium; run scripts/install-deps");
        return;
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let config = format!("tcp = \"{at}\"\ntoken_file = \"/dev/null/not-read\"\n");
    let dir = tempfile::tempdir().unwrap();
    let config = config.replace("/dev/null/not-read", dir.path().join("token").to_str().unwrap());
    let Some(here) = Here::start(&config) else { return };
    let script = "for i in 1 2 3; do echo out $i; sleep 0.2; done; echo \u{20ac} >&2; exit 4";
    let pid = here.start_program(&json!({"argv": ["sh", "-c", script]}));
    let path = format!("/vms/vm/processes/{pid}/output?stream=both");
    let request = json!({"method": "GET", "path": path});
    let ticket = here.gateway.rest().post("/tickets", &request).unwrap().expect(201).unwrap();
    let ticket = ticket["ticket"].as_str().unwrap().to_owned();
    let page = PAGE.replace("OUTPUT", &format!("{path}&ticket={ticket}"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (report, reported) = mpsc::channel();
    serve(listener, at, page, report);
    let mut browser: Command = tied("chromium");
    let mut browser = browser
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .arg("--disable-dev-shm-usage")
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg("--remote-debugging-port=0")
        .arg(url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let told = reported.recv_timeout(SOON * 2);
    let _ = browser.kill();
    let _ = browser.wait();
    let told = told.unwrap_or_else(|e| panic!("{e}: {}", here.gateway.log()));
    let wanted =
        json!({"text": {"stdout": "out 1\nout 2\nout 3\n", "stderr": "\u{20ac}\n"}, "code": 4});
    assert_eq!(told, wanted);
    assert!(!here.gateway.log().contains(&ticket), "a ticket in the log");
}
