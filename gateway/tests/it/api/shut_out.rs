//! What must not get round the end of a right, or past VMs that are not there for the caller.

use std::time::Duration;

use qga_gateway::rights::Rules;
use qga_gateway::vm::LinkState;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::agent::Agent;
use super::client::Target;
use super::gateway::{BOUND, Gateway};
use super::rights::{grant, token, with};

pub(super) const VM: &str = "vms = [\"vm\"]";

async fn gateway(config: &str) -> Gateway {
    let gateway = Gateway::configured(Agent::default(), config).await;
    gateway.wait_for(LinkState::Ready).await;
    gateway
}

#[tokio::test]
async fn a_group_shows_nobody_the_members_that_are_not_there_for_them() {
    let config = [
        token("sees") + &grant("sees", &["observe"], VM),
        token("freezes") + &grant("freezes", &["freeze", "freeze_force"], VM),
    ];
    let gateway = gateway(&config.concat()).await;
    let body = json!({"vms": ["vm", "absent"], "all_or_nothing": false, "label": "secret"});
    let lease = gateway.ask("POST", "/freezes").json(&body).send().await.expect(201);
    let id = lease["id"].as_str().unwrap();
    for path in ["/vms", "/vms/vm", "/vms/vm/fsfreeze"] {
        let shown = with(gateway.ask_tcp("GET", path), "sees").send().await.expect(200).to_string();
        assert!(shown.contains(id), "{path}: {shown}");
        assert!(!shown.contains("absent") && !shown.contains("secret"), "{path}: {shown}");
    }
    let path = "/vms/vm/fsfreeze?force=true";
    for method in ["PATCH", "DELETE"] {
        let ask = with(gateway.ask_tcp(method, path), "freezes").json(&json!({}));
        let problem = ask.send().await.problem(409, "lease_conflict").to_string();
        assert!(!problem.contains("absent"), "{problem}");
    }
    // Nor once it has ended, by whatever name.
    gateway.ask("DELETE", &format!("/freezes/{id}")).send().await.expect(200);
    let ask = || with(gateway.ask_tcp("DELETE", "/vms/vm/fsfreeze"), "freezes");
    ask().send().await.problem(404, "lease_not_found");
    let named = ask().header("if-match", &format!("\"{id}\"")).send().await;
    named.problem(404, "lease_not_found");
}

#[tokio::test]
async fn who_has_lost_a_member_does_not_renew_the_group_by_another() {
    let both = token("both") + &grant("both", &["freeze", "freeze_force"], "");
    let gateway = gateway(&both).await;
    let ask = |method: &str, path: &str| with(gateway.ask_tcp(method, path), "both");
    let body = json!({"vms": ["vm", "absent"], "all_or_nothing": false});
    ask("POST", "/freezes").json(&body).send().await.expect(201);
    let path = "/vms/vm/fsfreeze?force=true";
    ask("PATCH", path).json(&json!({})).send().await.expect(200);
    let less = token("both") + &grant("both", &["freeze", "freeze_force"], VM);
    gateway.authority.replace(rules(&less));
    ask("PATCH", path).json(&json!({})).send().await.problem(409, "lease_conflict");
    gateway.ask("DELETE", "/vms/vm/fsfreeze?force=true").send().await.expect(200);
}

#[tokio::test]
async fn an_upload_breaks_off_when_the_right_to_it_is_taken_away() {
    let config = token("up") + &grant("up", &["files_write"], VM);
    let gateway = gateway(&config).await;
    let Target::Tcp(address) = gateway.tcp else { panic!("no TCP") };
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "PUT /vms/vm/files/content?path=/tmp/file HTTP/1.1\r\nhost: localhost\r\n\
                authorization: Bearer up\r\ncontent-length: 1000000\r\n\r\npart";
    stream.write_all(head.as_bytes()).await.unwrap();
    let opened = async {
        while gateway.agent.times("guest-file-open") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, opened).await.expect("the upload begins");
    gateway.authority.replace(Rules::default());
    // Nothing more is sent, and nothing need be: it ends by itself.
    let mut answer = [0; 12];
    tokio::time::timeout(BOUND, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
}

#[tokio::test]
async fn a_wait_ends_when_the_right_to_its_answer_is_taken_away() {
    let gateway = gateway(&(token("waits") + &grant("waits", &["observe"], VM))).await;
    let path = "/vms/vm/wait?for=gone&timeout_seconds=600";
    let waits = tokio::spawn(with(gateway.ask_tcp("GET", path), "waits").send());
    let asked = async {
        while gateway.agent.times("guest-ping") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, asked).await.expect("it waits");
    gateway.authority.replace(rules(&token("waits")));
    let answer = tokio::time::timeout(BOUND, waits).await.expect("at once").unwrap();
    answer.problem(404, "vm_not_found");
}

#[tokio::test]
async fn of_who_sees_no_vm_no_body_is_read_and_no_key_kept() {
    let gateway = gateway(&token("nobody")).await;
    let Target::Tcp(address) = gateway.tcp else { panic!("no TCP") };
    for (path, status) in [
        ("/vms/vm/commands/guest-ping", "404"),
        ("/vms/none/commands/guest-ping", "404"),
        ("/vms/vm/file-handles/1/write", "404"),
        ("/vms/vm/processes", "404"),
    ] {
        for key in ["", "idempotency-key: k\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer nobody\r\n{key}\
                 content-type: application/json\r\ncontent-length: 60000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // Although not one byte of the body comes.
            let mut answer = [0; 12];
            let read = stream.read_exact(&mut answer);
            tokio::time::timeout(BOUND, read).await.expect("an answer").unwrap();
            assert_eq!(answer, format!("HTTP/1.1 {status}").as_bytes(), "{path} {key}");
        }
    }
}

pub(super) fn rules(config: &str) -> Rules {
    let text = format!("{config}\n[listen]\nunix = \"/nowhere\"\n");
    let config = qga_gateway::config::Config::parse(&text, "test.toml".as_ref()).unwrap();
    Rules::new(&config.grants, &config.tokens)
}
