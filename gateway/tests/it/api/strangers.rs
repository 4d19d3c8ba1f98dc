//! Somebody on the network without credentials: keeps nobody out, and fills no disk.

use tokio::net::TcpStream;

use super::client::{Target, raw};
use super::gateway::Gateway;

#[tokio::test]
async fn idle_connections_of_somebody_do_not_keep_out_who_has_a_token() {
    let gateway = Gateway::start().await;
    let Target::Tcp(address) = gateway.tcp else { panic!("no TCP") };
    // More than a listener takes at once, silent and refused ones in turn.
    let mut idle = Vec::new();
    for number in 0..1100 {
        let Ok(stream) = TcpStream::connect(address).await else { break };
        if number % 2 == 0 {
            stream.writable().await.unwrap();
            stream.try_write(b"GET /vms HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        }
        idle.push(stream);
    }
    assert!(idle.len() > 100, "only {} connections could be made", idle.len());
    let bearer = format!("Bearer {}", gateway.token);
    let ask = gateway.ask_tcp("GET", "/vms").header("authorization", &bearer);
    ask.send().await.expect(200);
    drop(idle);
}

#[tokio::test]
async fn a_flood_of_refused_requests_leaves_few_records_and_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.log");
    let gateway =
        Gateway::configured(super::agent::Agent::default(), &format!("[audit]\nfile = {file:?}\n"))
            .await;
    let long = format!("/vms/{}", "x".repeat(8000));
    let request = format!("GET {long} HTTP/1.1\r\nhost: localhost\r\n\r\n").repeat(50);
    let last = "GET /vms HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    for _ in 0..20 {
        let answers = raw(&gateway.tcp, format!("{request}{last}").as_bytes()).await;
        assert!(answers.starts_with("HTTP/1.1 401 ") || answers.starts_with("HTTP/1.1 429 "));
    }
    gateway.audit.finish();
    let records = std::fs::read_to_string(&file).unwrap();
    // 200 at once, and ten more for each second that this has taken.
    assert!(records.lines().count() < 900, "{} records", records.lines().count());
    assert!(records.lines().all(|line| line.len() < 2000), "a long path is cut");
    assert!(records.contains("\"path\":\"/vms/xxx"));
}
