//! A terminal over a WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use qga_proto::command::OutputStream::Stdout;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::programs::Programs;
use super::{at, gateway, start, until};
use crate::api::client::Target;
use crate::api::gateway::{BOUND, Gateway};
use crate::api::rights::grant;
use crate::api::shut_out::rules;

async fn attach(
    gateway: &Gateway,
    pid: i64,
    rest: &str,
    origin: Option<&str>,
) -> Result<WebSocketStream<UnixStream>, Error> {
    let Target::Unix(path) = &gateway.unix else { unreachable!("it is one") };
    let stream = UnixStream::connect(path).await.unwrap();
    let url = format!("ws://localhost/vms/vm/processes/{pid}/attach{rest}");
    let mut request = url.into_client_request().unwrap();
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().unwrap());
    }
    Ok(client_async(request, stream).await?.0)
}

async fn next(socket: &mut WebSocketStream<UnixStream>) -> Option<Message> {
    loop {
        let message = tokio::time::timeout(BOUND, socket.next()).await.expect("in time")?;
        match message {
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(message) => return Some(message),
            Err(_) => return None,
        }
    }
}

async fn text(socket: &mut WebSocketStream<UnixStream>) -> Value {
    match next(socket).await {
        Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn wait_until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, wait).await.expect("in time");
}

#[tokio::test]
async fn bytes_pass_both_ways_with_sizes_and_signals_and_the_end_is_told() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let body = json!({"pty": {"rows": 24, "cols": 80}});
    let (pid, handle) = start(&gateway, &programs, body).await;
    programs.write(handle, Stdout, b"$ ");
    until(&gateway, pid, |process| process["stdout"]["end"] == 2).await;
    let mut socket = attach(&gateway, pid, "", Some("http://localhost")).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(Message::Binary(b"$ ".to_vec().into())));
    socket.send(Message::Binary(b"ls\n".to_vec().into())).await.unwrap();
    wait_until(|| programs.input(handle) == b"ls\n").await;
    let resize = json!({"resize": {"rows": 10, "cols": 20}}).to_string();
    socket.send(Message::Text(resize.into())).await.unwrap();
    wait_until(|| programs.times("x-guest-exec-resize") == 1).await;
    socket.send(Message::Text(r#"{"signal": "INT"}"#.into())).await.unwrap();
    wait_until(|| programs.signals() == [(handle, 2)]).await;
    for bad in [r#"{"signal": "X"}"#, "{}", r#"{"resize": {"rows": 0, "cols": 1}}"#] {
        socket.send(Message::Text(bad.into())).await.unwrap();
        assert!(text(&mut socket).await["error"].is_string());
    }
    programs.write(handle, Stdout, b"bye");
    programs.exit(handle, 5);
    assert_eq!(next(&mut socket).await, Some(Message::Binary(b"bye".to_vec().into())));
    assert_eq!(text(&mut socket).await["exit"]["exit_code"], 5);
    assert!(matches!(next(&mut socket).await, Some(Message::Close(_)) | None));
    // Once more, for what is kept.
    let mut socket = attach(&gateway, pid, "?offset=1", None).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(Message::Binary(b" bye".to_vec().into())));
    assert_eq!(text(&mut socket).await["exit"]["exit_code"], 5);
}

/// What a program writes at a time.
const PIECE: usize = 48 << 10;

#[tokio::test]
async fn what_is_kept_of_a_programs_end_is_for_who_has_the_right_to_it() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "[limits]\nprocess_output_bytes = 8388608\n").await;
    let body = json!({"pty": {"rows": 24, "cols": 80}});
    let (pid, handle) = start(&gateway, &programs, body).await;
    // More than sockets hold, so that it is still being sent.
    for n in 1..=64 {
        programs.write(handle, Stdout, &[b'x'; PIECE]);
        until(&gateway, pid, |process| process["stdout"]["end"] == n * PIECE).await;
    }
    programs.exit(handle, 0);
    until(&gateway, pid, |process| process["complete"] == true).await;
    let Target::Unix(path) = &gateway.unix else { unreachable!("it is one") };
    let stream = UnixStream::connect(path).await.unwrap();
    let url = format!("ws://localhost/vms/vm/processes/{pid}/attach");
    let mut request = url.into_client_request().unwrap();
    let bearer = format!("Bearer {}", gateway.token);
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let (mut socket, _) = client_async(request, stream).await.unwrap();
    gateway.authority.replace(rules(&grant("default", &["observe"], "")));
    let mut bytes = 0;
    let said = loop {
        match next(&mut socket).await {
            Some(Message::Binary(piece)) => bytes += piece.len(),
            Some(Message::Text(text)) => break text.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(said.contains("detached") && said.contains("right"), "{said}");
    assert!(bytes < 64 * PIECE, "it was not sent to its end");
}

#[tokio::test]
async fn a_new_client_takes_over_and_one_that_goes_may_hang_up() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let body = || json!({"pty": {"rows": 24, "cols": 80}});
    let (pid, handle) = start(&gateway, &programs, body()).await;
    let mut first = attach(&gateway, pid, "?hangup=true", None).await.unwrap();
    let mut second = attach(&gateway, pid, "?hangup=true", None).await.unwrap();
    assert!(text(&mut first).await["detached"].as_str().unwrap().contains("another"));
    // It detached, and the program goes on.
    second.send(Message::Text(r#"{"detach": true}"#.into())).await.unwrap();
    assert!(matches!(next(&mut second).await, Some(Message::Close(_)) | None));
    assert_eq!(programs.signals(), []);
    let third = attach(&gateway, pid, "?hangup=true", None).await.unwrap();
    drop(third);
    wait_until(|| programs.signals() == [(handle, 1)]).await;
    programs.exit(handle, 0);
    until(&gateway, pid, |process| process["complete"] == true).await;
}

#[tokio::test]
async fn output_without_end_hides_neither_that_a_client_is_there_nor_that_it_is_not() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "[limits]\nevent_heartbeat_seconds = 1\n").await;
    let body = json!({"pty": {"rows": 24, "cols": 80}});
    let (pid, handle) = start(&gateway, &programs, body).await;
    let mut socket = attach(&gateway, pid, "?hangup=true", None).await.unwrap();
    // It answers pings, as every client does by itself, and types nothing.
    let (mut pings, mut pieces) = (0, 0);
    while pings < 5 {
        programs.write(handle, Stdout, b"x");
        let message = tokio::time::timeout(BOUND, socket.next()).await.expect("in time");
        match message.expect("it goes on").expect("it goes on") {
            Message::Ping(_) => pings += 1,
            Message::Binary(_) => pieces += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(pieces > 8, "{pieces}");
    assert_eq!(programs.signals(), []);
    // Now it takes nothing any more, though its connection stays.
    wait_until(|| {
        programs.write(handle, Stdout, b"x");
        programs.signals() == [(handle, 1)]
    })
    .await;
    drop(socket);
}

#[tokio::test]
async fn what_is_no_websocket_no_terminal_or_from_elsewhere_is_refused() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (plain, _) = start(&gateway, &programs, json!({})).await;
    at(&gateway, "GET", plain, "/attach").send().await.problem(409, "process_conflict");
    let (pid, _) = start(&gateway, &programs, json!({"pty": {"rows": 1, "cols": 1}})).await;
    at(&gateway, "GET", pid, "/attach").send().await.problem(400, "bad_request");
    for origin in ["http://evil.example", "null", "http://localhost.evil.example"] {
        let Err(Error::Http(answer)) = attach(&gateway, pid, "", Some(origin)).await else {
            panic!("{origin}");
        };
        assert_eq!(answer.status(), 403);
    }
    at(&gateway, "GET", 1, "/attach").send().await.problem(404, "process_not_found");
}
