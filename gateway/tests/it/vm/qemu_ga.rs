//! The real `qemu-ga`. Never a freeze: it would freeze the machine that runs this test.

use std::path::Path;
use std::process::{Child, Stdio};

use qga_gateway::vm::{CallError, LinkState};
use qga_proto::base64::Base64Text;
use qga_proto::command::{
    FsfreezeStatus, GuestFileClose, GuestFileFlush, GuestFileOpen, GuestFileRead, GuestFileSeek,
    GuestFileWrite, GuestFsfreezeStatus, Whence,
};
use tempfile::tempdir;

use super::{eventually, one, ping, quick, recovers, until};

pub(crate) struct Agent(Child);

impl Agent {
    pub(crate) fn start(program: &Path, socket: &Path, state: &Path) -> Self {
        let child = qga_testing::tied(program)
            .args(["-m", "unix-listen", "-p"])
            .arg(socket)
            .arg("-t")
            .arg(state)
            // A second lock on the first: even by mistake, no freeze can come through.
            .args(["-b", "guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-shutdown"])
            .stderr(Stdio::null())
            .spawn()
            .expect("qemu-ga starts");
        Self(child)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_real_agent_is_served_and_found_again() {
    let Some(program) = qga_testing::stock_agent() else { return };
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("real");
    let agent = Agent::start(&program, &path, dir.path());
    let (_registry, vm) = one(&path);
    until(&vm, LinkState::Ready).await;
    for _ in 0..100 {
        ping(&vm).await.expect("answers");
    }
    eventually("known", || vm.capabilities().is_some()).await;
    let known = vm.capabilities().expect("known");
    assert!(known.echoes_id && known.delimited_sync, "{known:?}");
    let names = known.commands.as_ref().expect("a list");
    assert!(names.iter().any(|command| command.name == "guest-fsfreeze-thaw"));
    let status = vm.call(GuestFsfreezeStatus {}, quick()).await.expect("answers");
    assert_eq!(status, FsfreezeStatus::Thawed);

    let file = dir.path().join("file").display().to_string();
    let open = GuestFileOpen { path: file, mode: Some("w+".into()) };
    let handle = vm.call(open, quick()).await.expect("opens");
    let buf_b64 = Base64Text::new(b"hello");
    let write = GuestFileWrite { handle, buf_b64, count: None };
    assert_eq!(vm.call(write, quick()).await.expect("writes").count, 5);
    vm.call(GuestFileFlush { handle }, quick()).await.expect("flushes");
    let seek = GuestFileSeek { handle, offset: 1, whence: Whence::Set };
    assert_eq!(vm.call(seek, quick()).await.expect("seeks").position, 1);
    let read = vm.call(GuestFileRead { handle, count: None }, quick()).await.expect("reads");
    assert_eq!((read.buf_b64.0.as_slice(), read.eof), (&b"ello"[..], true));
    vm.call(GuestFileClose { handle }, quick()).await.expect("closes");
    let error = vm.call(GuestFileClose { handle }, quick()).await.expect_err("closed");
    assert!(
        matches!(&error, CallError::Agent(e) if e.desc.contains("has not been found")),
        "{error}"
    );

    drop(agent);
    until(&vm, LinkState::Refused).await;
    let _agent = Agent::start(&program, &path, dir.path());
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
}
