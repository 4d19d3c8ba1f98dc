//! A stop: requests in hand are answered, nothing new is taken, the socket file goes.

use super::agent::{Agent, Quirk};
use super::gateway::{BOUND, Gateway};
use qga_gateway::vm::LinkState;

#[tokio::test]
async fn requests_in_hand_are_answered_and_the_socket_goes() {
    let agent = Agent::default().with("guest-file-flush", Quirk::Never);
    let gateway = Gateway::configured(agent, "[timeouts]\nfile_seconds = 0.5\n").await;
    gateway.wait_for(LinkState::Ready).await;
    let slow = tokio::spawn(gateway.ask("POST", "/vms/vm/file-handles/1/flush").send());
    let asked = async {
        while gateway.agent.times("guest-file-flush") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, asked).await.expect("asked");
    gateway.stopping.cancel();
    gateway.tracker.close();
    slow.await.unwrap().problem(504, "agent_timeout");
    tokio::time::timeout(BOUND, gateway.tracker.wait()).await.expect("all connections end");
    assert!(!gateway.socket_exists());
}

#[tokio::test]
async fn a_stop_thaws_what_is_frozen() {
    let gateway = Gateway::start().await;
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    let report = gateway.leases.shutdown(BOUND).await;
    assert_eq!((report.thawed, report.left.len()), (1, 0));
    assert!(!gateway.agent.is_frozen());
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.problem(503, "shutting_down");
}

#[tokio::test]
async fn a_stopping_gateway_says_that_it_is_not_ready() {
    use super::client::Target;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let gateway = Gateway::start().await;
    gateway.ask("GET", "/readyz").send().await.expect(200);
    // A request whose headers are under way when the stop comes is still answered.
    let Target::Unix(path) = &gateway.unix else { unreachable!() };
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nGET /readyz HTT").await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    gateway.stopping.cancel();
    stream.write_all(b"P/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    // The server may also close first; it must not answer that it is ready.
    assert_eq!(rest.matches("\"status\":\"ok\"").count(), 1, "{rest}");
}
