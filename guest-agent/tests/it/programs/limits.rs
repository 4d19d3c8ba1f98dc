use qga_proto::command::{Known, XExecStart, XExecWait};

use super::{call, forget, programs, refused, sh, start};
use crate::bed::{Bed, wait_for};

#[test]
fn running_programs_of_both_kinds_have_one_limit() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let sleep = XExecStart { argv: vec!["sleep".into(), "60".into()], ..XExecStart::default() };
    for _ in 0..50 {
        client.get("guest-exec", "{\"path\":\"sleep\",\"arg\":[\"60\"]}");
    }
    let mut handles: Vec<_> = (0..50).map(|_| start(&mut client, &sleep)).collect();
    let text = "100 programs are running already, which is the limit";
    assert_eq!(client.error("guest-exec", "{\"path\":\"true\"}"), text);
    let refusal = refused(&mut client, &sleep);
    assert_eq!(refusal, (format!("failed to start 'sleep': {text}"), "EAGAIN".into()));
    forget(&mut client, handles.pop().unwrap());
    let handle = wait_for("a place", || call(&mut client, &sleep).ok()).handle;
    assert!(handles.iter().all(|earlier| *earlier < handle), "no handle is used again");
    let listed: Vec<_> = programs(&mut client).into_iter().map(|p| p.handle).collect();
    handles.push(handle);
    assert_eq!(listed, handles, "in the order of their handles");
    for handle in handles {
        forget(&mut client, handle);
    }
    let children = format!("/proc/{0}/task/{0}/children", agent.child.id());
    let children = std::fs::read_to_string(children).unwrap();
    for pid in children.split_whitespace() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[test]
fn finished_ones_make_room_and_nothing_leaks() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{}/{what}", agent.child.id())).unwrap().count()
    };
    // By now it has opened all that it starts with.
    assert_eq!(programs(&mut client), []);
    let before = (count("fd"), count("task"));
    let script = XExecStart { argv: vec!["true".into()], ..sh("") };
    let mut first = None;
    for round in 0..600 {
        let handle = wait_for("a place", || call(&mut client, &script).ok()).handle;
        first.get_or_insert(handle);
        if round % 10 == 0 {
            let known = Known { handle, end: Some(true), ..Known::default() };
            call(&mut client, &XExecWait { programs: vec![known], wait_ms: 10_000 }).unwrap();
        }
    }
    let listed = programs(&mut client);
    assert!(listed.len() <= 512 && listed.len() > 400, "{}", listed.len());
    assert!(listed.iter().all(|program| Some(program.handle) != first), "the oldest has gone");
    wait_for("all to be closed", || ((count("fd"), count("task")) == before).then_some(()));
    for program in listed {
        forget(&mut client, program.handle);
    }
    let children = format!("/proc/{0}/task/{0}/children", agent.child.id());
    wait_for("all to be waited for", || {
        std::fs::read_to_string(&children).unwrap_or_default().is_empty().then_some(())
    });
}

#[test]
fn many_floods_are_bounded_in_memory() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let flood = sh("head -c 2000000 /dev/zero; head -c 2000000 /dev/zero >&2");
    for _ in 0..40 {
        let handle = wait_for("a place", || call(&mut client, &flood).ok()).handle;
        let known = Known { handle, end: Some(true), ..Known::default() };
        call(&mut client, &XExecWait { programs: vec![known], wait_ms: 10_000 }).unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.child.id())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
    let rss: u64 = rss.strip_suffix(" kB").unwrap().parse().unwrap();
    // 40 × 2 × 256 KiB are kept.
    assert!(rss < 40_000, "{rss} kB");
}
