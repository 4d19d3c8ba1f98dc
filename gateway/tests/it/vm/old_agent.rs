//! An agent as old as QEMU 0.15: no delimited sync, no `id`, no command list, a thaw that fails
//! by returning -1.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qga_gateway::principal::Principal;
use qga_gateway::vm::{
    CallError, FreezeError, FreezeRequest, LeaseState, Leases, LinkState, Policy, Verdict,
};
use qga_proto::command::{GuestFsfreezeFreezeList, GuestInfo};
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;

use super::{eventually, one, quick, recovers, until};

#[derive(Debug, Default)]
struct Truth {
    frozen: bool,
    thaws_to_fail: u32,
    ran: Vec<String>,
}

fn start(path: &Path) -> Arc<Mutex<Truth>> {
    let listener = UnixListener::bind(path).expect("bind");
    let truth = Arc::new(Mutex::new(Truth::default()));
    let shared = truth.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
                let reply = answer(&line, &shared);
                line.clear();
                if write.write_all(reply.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    truth
}

fn answer(line: &[u8], truth: &Mutex<Truth>) -> String {
    let error = |class: &str, desc: String| {
        format!("{{\"error\": {{\"class\": \"{class}\", \"desc\": \"{desc}\", \"data\": {{}}}}}}\n")
    };
    let mut replies = String::new();
    let flushed = line.iter().rposition(|byte| *byte == 0xFF);
    if flushed.is_some() {
        replies += &error("JSONParsing", "Invalid JSON syntax".into());
    }
    let text = &line[flushed.map_or(0, |at| at + 1)..];
    let request: Value = serde_json::from_slice(text).expect("a request");
    if request.get("id").is_some() {
        return replies + &error("QMPExtraInputObjectMember", "member 'id' is unexpected".into());
    }
    let name = request["execute"].as_str().expect("a name");
    let mut truth = truth.lock().expect("truth");
    if name != "guest-sync" {
        truth.ran.push(name.into());
    }
    let value = match name {
        "guest-sync" => request["arguments"]["id"].clone(),
        "guest-ping" => json!({}),
        "guest-info" => json!({"version": "0.15.50"}),
        "guest-fsfreeze-status" => json!(if truth.frozen { "frozen" } else { "thawed" }),
        "guest-fsfreeze-freeze" => {
            truth.frozen = true;
            json!(2)
        }
        "guest-fsfreeze-thaw" if truth.thaws_to_fail > 0 => {
            truth.thaws_to_fail -= 1;
            json!(-1)
        }
        "guest-fsfreeze-thaw" => json!(if std::mem::take(&mut truth.frozen) { 2 } else { 0 }),
        name => {
            let desc = format!("The command {name} has not been found");
            return replies + &error("CommandNotFound", desc);
        }
    };
    replies + &format!("{}\n", json!({ "return": value }))
}

fn request(policy: Policy) -> FreezeRequest {
    let second = Duration::from_secs(1);
    FreezeRequest {
        ttl: 60 * second,
        freeze_timeout: second,
        mountpoints: None,
        policy,
        label: None,
    }
}

#[tokio::test]
async fn is_spoken_to_in_its_own_way() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("old");
    let truth = start(&path);
    let (_registry, vm) = one(&path);
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
    eventually("known", || vm.capabilities().is_some()).await;
    let agent = vm.capabilities().expect("known");
    assert_eq!(agent.version, "0.15.50");
    assert_eq!((&agent.commands, agent.echoes_id, agent.delimited_sync), (&None, false, false));
    let info = vm.call(GuestInfo {}, quick()).await.expect("answers");
    assert!(info.supported_commands.is_empty());
    let list = GuestFsfreezeFreezeList { mountpoints: Some(vec!["/".into()]) };
    let error = vm.call(list, quick()).await.expect_err("too new");
    assert!(matches!(error, CallError::Unsupported), "{error}");
    assert!(!truth.lock().expect("truth").frozen);
}

#[tokio::test]
async fn a_negative_thaw_count_is_a_failure_that_is_retried() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("old");
    let truth = start(&path);
    let (registry, vm) = one(&path);
    until(&vm, LinkState::Ready).await;
    let leases = Leases::new(&registry);
    let lease = leases.freeze(&vm, request(Policy::Required), Principal::new("test")).await;
    let lease = lease.expect("freezes");
    assert_eq!(lease.filesystems, Some(2));
    truth.lock().expect("truth").thaws_to_fail = 2;

    let error = leases.thaw(&lease.id).await.expect_err("the first attempt fails");
    let FreezeError::Call(CallError::Agent(said)) = &error else { panic!("{error}") };
    assert!(said.desc.contains("-1"), "{said}");
    assert_eq!(leases.get(&lease.id).expect("kept").state, LeaseState::Thawing);
    let ended = || leases.get(&lease.id).is_some_and(|lease| lease.ended());
    eventually("thawed by retrying", ended).await;
    assert!(!truth.lock().expect("truth").frozen);
    let lease = leases.get(&lease.id).expect("kept");
    assert_eq!(lease.verdict, Some(Verdict::CountsAgree), "{:?}", lease.evidence);
}
