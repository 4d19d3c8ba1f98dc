//! The order of replies, and who may overtake whom.

use std::time::{Duration, Instant};

use qga_proto::command::{CommandInfo, GuestSync};
use qga_proto::{Job, Outcome, Server};

fn request(name: &str, id: &str) -> Vec<u8> {
    let arguments = if name.starts_with("guest-sync") { ",\"arguments\":{\"id\":1}" } else { "" };
    format!("{{\"execute\":\"{name}\"{arguments},\"id\":\"{id}\"}}").into_bytes()
}

fn start(server: &mut Server, now: Instant) -> Vec<Job> {
    std::iter::from_fn(|| server.poll(now, &mut |_: &CommandInfo| true)).collect()
}

fn names(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(|job| job.info.name).collect()
}

/// The ids of the replies that are ready, in order.
fn replies(server: &mut Server) -> Vec<String> {
    let output = server.output().to_vec();
    server.consume_output(output.len());
    output
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let line = line.strip_prefix(b"\xff").unwrap_or(line);
            let reply: serde_json::Value = serde_json::from_slice(line).unwrap();
            reply["id"].as_str().unwrap_or("-").to_owned()
        })
        .collect()
}

fn finish(server: &mut Server, jobs: &mut Vec<Job>, name: &str) {
    let at = jobs.iter().position(|job| job.info.name == name).unwrap();
    server.complete(jobs.remove(at).ticket, Outcome::empty());
}

#[test]
fn one_command_runs_at_a_time() {
    let (mut server, now) = (Server::new(), Instant::now());
    server.feed(&[request("guest-file-open", "a"), request("guest-ping", "b")].concat());
    let mut jobs = start(&mut server, now);
    assert_eq!(names(&jobs), ["guest-file-open"]);
    finish(&mut server, &mut jobs, "guest-file-open");
    assert_eq!(replies(&mut server), ["a"]);
    assert_eq!(names(&start(&mut server, now)), ["guest-ping"]);
}

#[test]
fn what_waits_gives_way_to_whatever_comes_behind_it() {
    let (mut server, now) = (Server::new(), Instant::now());
    for behind in ["guest-ping", "guest-file-open", "guest-sync", "x-guest-exec-wait"] {
        server.feed(&request("x-guest-exec-wait", "wait"));
        let waiting = start(&mut server, now);
        assert_eq!(names(&waiting), ["x-guest-exec-wait"]);
        assert!(replies(&mut server).is_empty(), "it waits while nothing else is there");
        server.feed(&request(behind, "behind"));
        let mut jobs = start(&mut server, now);
        assert_eq!(names(&jobs), [behind]);
        assert_eq!(server.output(), b"{\"return\": {\"ready\": []}, \"id\": \"wait\"}\n");
        assert_eq!(replies(&mut server), ["wait"]);
        // What it comes to now goes nowhere.
        waiting.into_iter().for_each(|job| server.complete(job.ticket, Outcome::empty()));
        assert!(replies(&mut server).is_empty());
        finish(&mut server, &mut jobs, behind);
        assert_eq!(replies(&mut server), ["behind"]);
    }
}

#[test]
fn a_wait_of_a_client_that_has_gone_holds_up_nobody() {
    let (mut server, now) = (Server::new(), Instant::now());
    server.feed(&request("x-guest-exec-wait", "wait"));
    start(&mut server, now);
    server.reset();
    server.feed(&request("guest-file-open", "open"));
    assert_eq!(names(&start(&mut server, now)), ["guest-file-open"]);
}

#[test]
fn a_sync_overtakes_a_freeze_and_takes_its_reply_away() {
    let (mut server, now) = (Server::new(), Instant::now());
    server.feed(&request("guest-fsfreeze-freeze", "freeze"));
    let mut jobs = start(&mut server, now);
    server.feed(&request("guest-sync-delimited", "sync"));
    server.feed(&request("guest-fsfreeze-status", "status"));
    server.feed(&request("guest-file-open", "open"));
    jobs.extend(start(&mut server, now));
    assert_eq!(names(&jobs), ["guest-fsfreeze-freeze", "guest-sync-delimited"]);
    finish(&mut server, &mut jobs, "guest-sync-delimited");
    assert_eq!(server.output()[0], 0xFF);
    assert_eq!(replies(&mut server), ["sync"]);
    // What may run while frozen does; the rest waits for the freeze.
    jobs.extend(start(&mut server, now));
    assert_eq!(names(&jobs), ["guest-fsfreeze-freeze", "guest-fsfreeze-status"]);
    finish(&mut server, &mut jobs, "guest-fsfreeze-status");
    assert!(start(&mut server, now).is_empty());
    finish(&mut server, &mut jobs, "guest-fsfreeze-freeze");
    assert_eq!(replies(&mut server), ["status"]);
    assert_eq!(names(&start(&mut server, now)), ["guest-file-open"]);
}

#[test]
fn a_thaw_starts_at_once_and_answers_in_its_turn() {
    for (freeze, thaw) in [
        ("guest-fsfreeze-freeze", "guest-fsfreeze-thaw"),
        ("x-guest-fsfreeze-freeze", "x-guest-fsfreeze-thaw"),
    ] {
        let (mut server, now) = (Server::new(), Instant::now());
        for (name, id) in [(freeze, "1"), ("guest-ping", "2"), (thaw, "3")] {
            server.feed(&request(name, id));
        }
        let mut jobs = start(&mut server, now);
        assert_eq!(names(&jobs), [freeze, thaw]);
        finish(&mut server, &mut jobs, thaw);
        assert!(replies(&mut server).is_empty());
        finish(&mut server, &mut jobs, freeze);
        assert_eq!(replies(&mut server), ["1"]);
        jobs = start(&mut server, now);
        finish(&mut server, &mut jobs, "guest-ping");
        assert_eq!(replies(&mut server), ["2", "3"]);
    }
}

#[test]
fn a_report_behind_a_freeze_that_hangs_comes_after_a_sync() {
    let (mut server, now) = (Server::new(), Instant::now());
    for (name, id) in [
        ("x-guest-fsfreeze-freeze", "freeze"),
        ("x-guest-fsfreeze-report", "lost"),
        ("guest-sync", "sync"),
        ("x-guest-fsfreeze-report", "report"),
    ] {
        server.feed(&request(name, id));
    }
    let mut jobs = start(&mut server, now);
    assert_eq!(names(&jobs), ["x-guest-fsfreeze-freeze", "guest-sync"]);
    finish(&mut server, &mut jobs, "guest-sync");
    jobs.extend(start(&mut server, now));
    assert_eq!(names(&jobs), ["x-guest-fsfreeze-freeze", "x-guest-fsfreeze-report"]);
    finish(&mut server, &mut jobs, "x-guest-fsfreeze-report");
    assert_eq!(replies(&mut server), ["sync", "report"]);
}

#[test]
fn a_thaw_does_not_pass_a_freeze_that_has_not_started() {
    let (mut server, now) = (Server::new(), Instant::now());
    for name in ["guest-file-open", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"] {
        server.feed(&request(name, name));
    }
    let mut jobs = start(&mut server, now);
    assert_eq!(names(&jobs), ["guest-file-open"]);
    // Nor when all three were given up.
    server.feed(&request("guest-sync", "sync"));
    jobs.extend(start(&mut server, now + Duration::from_secs(1)));
    assert_eq!(names(&jobs), ["guest-file-open", "guest-sync"]);
    finish(&mut server, &mut jobs, "guest-file-open");
    jobs.extend(start(&mut server, now));
    assert_eq!(names(&jobs), ["guest-sync", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]);
}

#[test]
fn a_thaw_that_a_sync_overtook_starts_at_once_all_the_same() {
    let (mut server, now) = (Server::new(), Instant::now());
    for name in ["guest-fsfreeze-freeze", "guest-file-open", "guest-fsfreeze-thaw", "guest-sync"] {
        server.feed(&request(name, name));
    }
    let mut jobs = start(&mut server, now);
    assert_eq!(names(&jobs), ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-sync"]);
    for name in ["guest-fsfreeze-thaw", "guest-fsfreeze-freeze", "guest-sync"] {
        finish(&mut server, &mut jobs, name);
    }
    assert_eq!(replies(&mut server), ["guest-sync"]);
    assert_eq!(names(&start(&mut server, now)), ["guest-file-open"]);
}

#[test]
fn a_short_command_loses_its_reply_only_when_it_is_stuck() {
    let (mut server, now) = (Server::new(), Instant::now());
    server.feed(&[request("guest-file-read", "read"), request("guest-sync", "sync")].concat());
    let jobs = start(&mut server, now);
    assert_eq!(names(&jobs), ["guest-file-read"]);
    let wakeup = server.next_wakeup().unwrap();
    assert_eq!(wakeup, now + Duration::from_secs(1));
    assert!(start(&mut server, wakeup - Duration::from_millis(1)).is_empty());
    let jobs = start(&mut server, wakeup);
    assert_eq!(names(&jobs), ["guest-sync"]);
    assert_eq!(jobs[0].request.arguments::<GuestSync>().unwrap().id, 1);
    assert_eq!(server.next_wakeup(), None);
}

#[test]
fn a_command_without_end_that_was_overtaken_holds_up_later_ones_for_a_second_at_most() {
    let (mut server, now) = (Server::new(), Instant::now());
    for name in ["guest-fstrim", "guest-file-open", "guest-file-flush", "guest-sync"] {
        server.feed(&request(name, name));
    }
    let mut jobs = start(&mut server, now);
    assert_eq!(names(&jobs), ["guest-fstrim", "guest-sync"]);
    finish(&mut server, &mut jobs, "guest-sync");
    for name in ["guest-ping", "guest-exec", "guest-get-osinfo"] {
        server.feed(&request(name, name));
    }
    jobs.extend(start(&mut server, now));
    assert_eq!(names(&jobs), ["guest-fstrim", "guest-ping"]);
    finish(&mut server, &mut jobs, "guest-ping");
    let second = now + Duration::from_secs(1);
    assert!(start(&mut server, second - Duration::from_millis(1)).is_empty());
    assert_eq!(server.next_wakeup(), Some(second));
    // Then those that the sync has overtaken with it, in order, and behind them what came later.
    jobs.extend(start(&mut server, second));
    assert_eq!(names(&jobs), ["guest-fstrim", "guest-file-open", "guest-file-flush", "guest-exec"]);
    finish(&mut server, &mut jobs, "guest-exec");
    jobs.extend(start(&mut server, second));
    finish(&mut server, &mut jobs, "guest-get-osinfo");
    let answered = ["guest-sync", "guest-ping", "guest-exec", "guest-get-osinfo"];
    assert_eq!(replies(&mut server), answered);
    assert!(server.is_idle(), "what nobody waits for does not keep a client");
    assert_eq!(server.next_wakeup(), None);

    // Once all of it has ended, whatever is overtaken next is waited for again.
    for name in ["guest-file-flush", "guest-file-open", "guest-fstrim"] {
        finish(&mut server, &mut jobs, name);
    }
    for name in ["guest-fstrim", "guest-sync", "guest-exec"] {
        server.feed(&request(name, name));
    }
    jobs = start(&mut server, second);
    assert_eq!(names(&jobs), ["guest-fstrim", "guest-sync"]);
    finish(&mut server, &mut jobs, "guest-sync");
    assert!(start(&mut server, second).is_empty());
    finish(&mut server, &mut jobs, "guest-fstrim");
    assert_eq!(names(&start(&mut server, second)), ["guest-exec"]);
}

#[test]
fn what_the_agents_gate_refuses_is_not_asked_for_again_and_again() {
    let (mut server, now) = (Server::new(), Instant::now());
    for name in ["guest-fsfreeze-freeze", "guest-sync", "guest-exec"] {
        server.feed(&request(name, name));
    }
    let later = now + Duration::from_secs(60);
    let mut jobs = start(&mut server, now);
    finish(&mut server, &mut jobs, "guest-sync");
    assert!(start(&mut server, now).is_empty());
    let freezing = |info: &CommandInfo| info.allowed_while_frozen;
    assert!(server.poll(later, &mut { freezing }).is_none());
    assert_eq!(server.next_wakeup(), None, "the freeze's end is an event");
    finish(&mut server, &mut jobs, "guest-fsfreeze-freeze");
    assert_eq!(names(&start(&mut server, later)), ["guest-exec"]);
}

#[test]
fn overtaken_commands_still_run_in_order_and_unanswered() {
    let (mut server, now) = (Server::new(), Instant::now());
    for name in ["guest-fsfreeze-freeze", "guest-file-open", "guest-file-flush", "guest-sync"] {
        server.feed(&request(name, name));
    }
    let mut jobs = start(&mut server, now);
    assert_eq!(names(&jobs), ["guest-fsfreeze-freeze", "guest-sync"]);
    finish(&mut server, &mut jobs, "guest-sync");
    finish(&mut server, &mut jobs, "guest-fsfreeze-freeze");
    jobs = start(&mut server, now);
    assert_eq!(names(&jobs), ["guest-file-open"]);
    finish(&mut server, &mut jobs, "guest-file-open");
    jobs = start(&mut server, now);
    assert_eq!(names(&jobs), ["guest-file-flush"]);
    finish(&mut server, &mut jobs, "guest-file-flush");
    assert_eq!(replies(&mut server), ["guest-sync"]);
    assert!(server.is_idle());
}

#[test]
fn a_new_client_gets_no_replies_of_the_last_one() {
    let (mut server, now) = (Server::new(), Instant::now());
    server.feed(&request("guest-fsfreeze-freeze", "freeze"));
    let mut jobs = start(&mut server, now);
    server.feed(b"{\"execute\":\"guest-pi");
    server.reset();
    server.feed(&request("guest-ping", "ping"));
    jobs.extend(start(&mut server, now));
    assert_eq!(names(&jobs), ["guest-fsfreeze-freeze", "guest-ping"]);
    finish(&mut server, &mut jobs, "guest-ping");
    finish(&mut server, &mut jobs, "guest-fsfreeze-freeze");
    assert_eq!(replies(&mut server), ["ping"]);
}

#[test]
fn a_host_that_does_not_read_is_not_read_from() {
    let (mut server, now) = (Server::new(), Instant::now());
    let large = vec![b' '; 5 << 20];
    server.feed(&request("guest-ping", "a"));
    let job = start(&mut server, now).remove(0);
    server.complete(job.ticket, Outcome::Return([b"\"".to_vec(), large, b"\"".to_vec()].concat()));
    assert!(!server.wants_input());
    server.feed(&[request("guest-ping", "b"), request("guest-fsfreeze-thaw", "c")].concat());
    // Only what must not wait starts.
    assert_eq!(names(&start(&mut server, now)), ["guest-fsfreeze-thaw"]);
    while !server.output().is_empty() {
        server.consume_output(server.output().len());
    }
    assert!(server.wants_input());
    assert_eq!(names(&start(&mut server, now)), ["guest-ping"]);
}

#[test]
fn requests_wait_up_to_a_bound() {
    let mut server = Server::new();
    let mut sent = 0;
    while server.wants_input() {
        server.feed(&request("guest-file-open", "x"));
        sent += 1;
    }
    assert_eq!(sent, 256);
}
