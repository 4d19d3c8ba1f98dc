//! Conditions of an upload that hold when it begins, and not any more when it ends.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::client::Target;
use super::downloads::{CHUNK, all_closed, content, eventually, gateway, noise};
use super::file_agent::FileAgent;

#[tokio::test]
async fn what_somebody_else_did_meanwhile_stays_and_the_sender_is_told() {
    let data = noise(3 * CHUNK + 5);
    for condition in ["if-match: TAG", "if-match: *", "if-none-match: *"] {
        let agent = FileAgent::new(true);
        let gateway = gateway(&agent, "").await;
        let there_before = condition.starts_with("if-match");
        if there_before {
            agent.put("/f", b"old");
        }
        let head = gateway.ask("HEAD", &content("/f")).send().await;
        let condition = condition.replace("TAG", head.header("etag"));
        let Target::Unix(socket) = &gateway.unix else { unreachable!("a Unix socket") };
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let head = format!(
            "PUT {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{condition}\r\n\
             content-length: {}\r\n\r\n",
            content("/f"),
            data.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&data[..2 * CHUNK]).await.unwrap();
        // The conditions held, and bytes are on their way.
        eventually("it is written", || agent.ran("guest-file-write") > 0).await;
        let theirs = if condition.ends_with('*') && there_before {
            gateway.ask("DELETE", &content("/f")).send().await;
            None
        } else {
            agent.put("/f", b"somebody else's");
            Some(b"somebody else's".to_vec())
        };
        stream.write_all(&data[2 * CHUNK..]).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 412 "), "{condition}: {answer}");
        let problem: Value =
            serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap();
        assert_eq!(problem["code"], "precondition_failed", "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("somebody else") && detail.contains("Nothing was changed"));
        assert_eq!(agent.content("/f"), theirs, "{condition}");
        assert_eq!(agent.ran("x-guest-file-commit"), 1, "{condition}: it was told at the end");
        all_closed(&agent).await;
    }
}
