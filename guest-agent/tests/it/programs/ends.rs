use qga_proto::command::{Known, OutputStream, XExecForget, XExecSignal, XExecStart};
use rustix::event::{Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    call, forget, is_alive, news, output_until, programs, refused, sh, start, state, wait_for_death,
};
use crate::bed::{AGENT, Agent, Bed, Client, wait_for};

/// Of processes, each on a line.
fn pids(output: &str) -> Vec<i64> {
    output.lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn a_timeout_kills_all_that_it_has_started() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "echo $$; sh -c 'echo $$; sleep 300 & echo $!; wait' & wait";
    let handle = start(&mut client, &XExecStart { timeout_ms: Some(1500), ..sh(script) });
    let output = wait_for("three numbers", || {
        let read = super::read(&mut client, handle, OutputStream::Stdout, 0);
        Some(String::from_utf8(read.buf_b64.0).unwrap()).filter(|text| text.lines().count() == 3)
    });
    let end = news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert_eq!((end.signal, end.timed_out), (Some(9), true));
    pids(&output).into_iter().for_each(wait_for_death);

    // Its own process has ended before.
    let script = "sleep 300 & echo $!";
    let handle = start(&mut client, &XExecStart { timeout_ms: Some(1000), ..sh(script) });
    let end = news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert_eq!((end.exitcode, end.timed_out), (Some(0), false));
    let output = output_until(&mut client, handle, "\n");
    let ended = wait_for("the end of output", || {
        Some(state(&mut client, handle)).filter(|state| state.stdout.unwrap().eof)
    });
    assert_eq!((ended.exitcode, ended.timed_out), (Some(0), true));
    pids(&output).into_iter().for_each(wait_for_death);
    let text = "invalid timeout-ms: it must be 1 or more";
    for timeout_ms in [Some(0), Some(-1)] {
        let refusal = refused(&mut client, &XExecStart { timeout_ms, ..sh("exit") });
        assert_eq!(refusal, (text.into(), "EINVAL".into()));
    }
}

#[test]
fn to_forget_it_is_to_kill_it() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "echo $$; sh -c 'echo $$; trap \"\" HUP TERM; sleep 300 & echo $!; wait' & wait";
    let handle = start(&mut client, &sh(script));
    let output = wait_for("three numbers", || {
        let read = super::read(&mut client, handle, OutputStream::Stdout, 0);
        Some(String::from_utf8(read.buf_b64.0).unwrap()).filter(|text| text.lines().count() == 3)
    });
    forget(&mut client, handle);
    pids(&output).into_iter().for_each(wait_for_death);
    assert_eq!(programs(&mut client), []);
    let text = format!("no program has handle {handle}");
    assert_eq!(refused(&mut client, &XExecForget { handle }), (text, "ESRCH".into()));
    let text = "no program has handle -1";
    assert_eq!(refused(&mut client, &XExecForget { handle: -1 }), (text.into(), "ESRCH".into()));
}

#[test]
fn signals_reach_the_group_or_the_process_alone() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "trap 'echo usr1' USR1; sh -c 'trap \"echo child\" USR1; echo ready; \
                  while :; do sleep 0.05; done' & while :; do sleep 0.05; done";
    let handle = start(&mut client, &sh(script));
    output_until(&mut client, handle, "ready\n");
    let usr1 = XExecSignal { handle, signal: Signal::USR1.as_raw().into(), alone: Some(true) };
    call(&mut client, &usr1).unwrap();
    let alone = output_until(&mut client, handle, "usr1");
    assert!(!alone.contains("child"), "{alone}");
    call(&mut client, &XExecSignal { alone: None, ..usr1 }).unwrap();
    wait_for("both", || {
        let read = super::read(&mut client, handle, OutputStream::Stdout, 0);
        let text = String::from_utf8(read.buf_b64.0).unwrap();
        (text.contains("child") && text.matches("usr1").count() == 2).then_some(())
    });
    for signal in [0, 65, -9] {
        let text = format!("invalid signal: {signal}, and it must be 1 to 64");
        let refusal = refused(&mut client, &XExecSignal { signal, ..usr1 });
        assert_eq!(refusal, (text, "EINVAL".into()));
    }
    // One without a name in C.
    call(&mut client, &XExecSignal { handle, signal: 40, alone: None }).unwrap();
    let end = news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert_eq!(end.signal, Some(40));
    let text = "failed to send signal 10 to 'sh': No such process";
    assert_eq!(refused(&mut client, &usr1), (text.into(), "ESRCH".into()));
}

/// Zombies of the agent.
fn zombies(agent: &Agent) -> usize {
    let children = format!("/proc/{0}/task", agent.child.id());
    let tasks = std::fs::read_dir(children).unwrap().flatten();
    let pids = tasks.flat_map(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z ")
    })
    .count()
}

#[test]
fn a_zombie_keeps_the_number_exactly_as_long_as_something_is_left() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    // Nothing is left: it has been waited for, and no signal is sent to its number any more.
    let started = call(&mut client, &sh("exit")).unwrap();
    let handle = started.handle;
    news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    wait_for("no zombie", || (zombies(&agent) == 0).then_some(()));
    let kill = XExecSignal { handle, signal: 9, alone: None };
    assert_eq!(refused(&mut client, &kill).1, "ESRCH");

    let script = "sleep 300 > /dev/null 2>&1 & echo $!";
    let started = call(&mut client, &sh(script)).unwrap();
    let handle = started.handle;
    let left = pids(&output_until(&mut client, handle, "\n"))[0];
    let end = news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert_eq!(end.exitcode, Some(0));
    assert_eq!(zombies(&agent), 1);
    // What is left can still be reached by the group's number.
    call(&mut client, &XExecSignal { handle, signal: 15, alone: None }).unwrap();
    wait_for_death(left);
    wait_for("no zombie", || (zombies(&agent) == 0).then_some(()));
    assert_eq!(state(&mut client, handle).exitcode, Some(0));

    // Forgotten, it takes along what is left.
    let handle = start(&mut client, &sh(script));
    let left = pids(&output_until(&mut client, handle, "\n"))[0];
    news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert!(is_alive(left));
    forget(&mut client, handle);
    wait_for_death(left);
    wait_for("no zombie", || (zombies(&agent) == 0).then_some(()));
}

/// Two programs, one of which does not care for SIGHUP, each with a child; and one of
/// `guest-exec`.
fn some_programs(client: &mut Client) -> (Vec<i64>, i64) {
    let mut all = Vec::new();
    for script in ["sleep 300 & echo $$ $!; wait", "trap '' HUP; sleep 300 & echo $$ $!; wait"] {
        let handle = start(client, &sh(script));
        let output = output_until(client, handle, "\n");
        all.extend(output.split_whitespace().map(|pid| pid.parse::<i64>().unwrap()));
    }
    let plain = client.get("guest-exec", "{\"path\":\"sleep\",\"arg\":[\"300\"]}");
    let plain: serde_json::Value = serde_json::from_str(&plain).unwrap();
    (all, plain["pid"].as_i64().unwrap())
}

fn kill(pid: i64) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn they_end_with_an_agent_that_is_stopped() {
    let bed = Bed::new();
    let mut agent = bed.start();
    let (all, plain) = some_programs(&mut agent.connect());
    assert!(all.iter().all(|pid| is_alive(*pid)), "{all:?}");
    agent.signal(Signal::TERM);
    assert!(agent.wait_for_exit().success());
    assert!(all.iter().all(|pid| !is_alive(*pid)), "{all:?}");
    assert!(is_alive(plain), "a program of guest-exec outlives its agent");
    kill(plain);
}

#[test]
fn the_agent_after_one_that_was_killed_ends_them() {
    let bed = Bed::new();
    let mut agent = bed.start();
    let mut client = agent.connect();
    // Places are used again.
    for _ in 0..3 {
        super::run(&mut client, &sh("echo"));
    }
    let (all, plain) = some_programs(&mut client);
    agent.kill();
    assert!(all.iter().any(|pid| is_alive(*pid)), "there is something to be done: {all:?}");
    let mut innocent = std::process::Command::new("sleep").arg("300").spawn().unwrap();
    let next = bed.start();
    all.into_iter().for_each(wait_for_death);
    assert!(is_alive(plain));
    assert_eq!(innocent.try_wait().unwrap(), None);
    assert_eq!(programs(&mut next.connect()), []);
    kill(plain);
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

/// The moments between two steps of a start cannot be told from outside, so each agent is killed a
/// little later than the one before.
#[test]
fn an_agent_killed_at_any_moment_of_a_start_leaves_nothing_to_the_one_after_the_next() {
    let bed = Bed::new();
    // Nobody else sleeps for that long.
    let mark = format!("{}.5", 1_000_000 + std::process::id());
    let running = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines =
            processes.filter_map(|p| std::fs::read_to_string(p.path().join("cmdline")).ok());
        lines.filter(|line| line.contains(&mark)).count()
    };
    let script = format!("sleep {mark} & exec sleep {mark}");
    for moment in 0..12_u32 {
        let mut agent = bed.start();
        let mut client = agent.connect();
        let start = serde_json::json!({"execute": "x-guest-exec-start", "arguments": sh(&script)});
        for _ in 0..4 {
            client.send(start.to_string());
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(moment * moment) * 60_000 };
        poll(&mut [], Some(&wait)).unwrap();
        agent.kill();
    }
    let mut last = bed.start();
    wait_for("the end of all", || (running() == 0).then_some(()));
    // It is not only quick: the last of them is there, and is ended with it.
    start(&mut last.connect(), &sh(&script));
    wait_for("two of them", || (running() == 2).then_some(()));
    last.signal(Signal::TERM);
    last.wait_for_exit();
    assert_eq!(running(), 0);
}

#[test]
fn handles_of_another_agent_mean_nothing() {
    let bed = Bed::new();
    let mut agent = bed.start();
    let first = call(&mut agent.connect(), &sh("exec sleep 60")).unwrap();
    agent.kill();
    let agent = Agent::spawn(&mut bed.command(AGENT), &bed.path("socket"));
    let second = call(&mut agent.connect(), &sh("exec sleep 60")).unwrap();
    assert_ne!(first.agent_instance, second.agent_instance);
    let report: serde_json::Value =
        serde_json::from_str(&agent.connect().get("x-guest-fsfreeze-report", "")).unwrap();
    assert_eq!(report["agent-instance"], second.agent_instance.as_str());
}
