use std::sync::Arc;
use std::sync::mpsc::Receiver;

use qga_proto::command::{CaptureOutput, GuestExec};
use rustix::process::Pid;

use super::*;
use crate::completions::Completions;
use crate::freeze::Identity;
use crate::worker::tests::{job, next};

pub(in crate::exec) struct Bench {
    pub(in crate::exec) programs: Programs,
    inbox: Receiver<Message>,
    pub(in crate::exec) completions: Arc<Completions>,
}

impl Bench {
    pub(in crate::exec) fn new(limits: Limits) -> Self {
        let (executor, inbox) = Executor::new().unwrap();
        let lives = Lives::new(&Identity::default(), Path::new("/nonexistent"));
        let programs = Programs::new(executor, limits, Arc::default(), lives).unwrap();
        Self { programs, inbox, completions: Completions::new().unwrap() }
    }

    pub(in crate::exec) fn turn(&mut self) {
        assert!(self.programs.turn(&self.inbox, &mut Vec::with_capacity(8)));
    }

    pub(in crate::exec) fn turn_until<T>(
        &mut self,
        check: impl Fn(&mut Programs) -> Option<T>,
    ) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = check(&mut self.programs) {
                return found;
            }
            assert!(begun.elapsed().as_secs() < 20);
            self.turn();
        }
    }

    /// Hands a start over, without waiting for anything.
    fn submit(&mut self, script: &str, input: Option<&[u8]>) {
        let arguments = GuestExec {
            path: "/bin/sh".into(),
            arg: Some(vec!["-c".into(), script.into()]),
            env: None,
            input_data: input.map(qga_proto::base64::Base64Text::new),
            capture_output: Some(CaptureOutput::Separated),
        };
        let reply = job(&self.completions).1;
        self.programs.start(Order::new(arguments).unwrap(), reply);
    }

    pub(in crate::exec) fn start(
        &mut self,
        script: &str,
        input: Option<&[u8]>,
    ) -> Result<i64, String> {
        self.submit(script, input);
        while !self.programs.starting.is_empty() {
            self.turn();
        }
        self.started()
    }

    fn started(&mut self) -> Result<i64, String> {
        match next(&self.completions).pop().unwrap() {
            Outcome::Return(text) => {
                let started: ExecStarted = serde_json::from_slice(&text).unwrap();
                Ok(started.pid)
            }
            Outcome::Error(error) => Err(error.desc),
            Outcome::Silent => panic!(),
        }
    }

    /// Its result, once it is finished.
    fn result(&mut self, pid: i64) -> ExecStatus {
        self.turn_until(|programs| {
            let status = programs.status(pid).unwrap();
            status.exited.then_some(status)
        })
    }

    fn wait_for_finished(&mut self, count: usize) {
        self.turn_until(|programs| (programs.finished.len() >= count).then_some(()));
    }
}

fn kill(pid: i64) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

pub(in crate::exec) const LIMITS: Limits =
    Limits { running: 2, records: 3, held: 1000, stream: 600, patience: Duration::from_secs(20) };

#[test]
fn programs_beyond_the_limit_are_refused_until_one_ends() {
    let mut bench = Bench::new(LIMITS);
    let first = bench.start("read line", Some(b"line\n")).unwrap();
    bench.result(first);
    let running = [(); 2].map(|()| bench.start("exec sleep 60", None).unwrap());
    let refused = bench.start("exit", None).unwrap_err();
    assert_eq!(refused, "2 programs are running already, which is the limit");
    for pid in running {
        kill(pid);
        assert_eq!(bench.result(pid).signal, Some(9));
    }
    bench.start("exit", None).unwrap();
}

#[test]
fn results_that_nobody_fetches_expire_from_the_oldest_when_the_place_is_needed() {
    let mut bench = Bench::new(LIMITS);
    let mut pids = Vec::new();
    for count in 1..=3 {
        pids.push(bench.start("exit 5", None).unwrap());
        bench.wait_for_finished(count);
    }
    assert_eq!(bench.result(pids[1]).exitcode, Some(5));
    bench.start("exit", None).unwrap();
    bench.wait_for_finished(3);
    // Full again: the first one has waited for longest.
    bench.start("exit", None).unwrap();
    let gone = bench.programs.status(pids[0]).unwrap_err().desc;
    assert_eq!(gone, "PID ld does not exist");
    assert_eq!(bench.result(pids[2]).exitcode, Some(5));
    assert_eq!(bench.programs.status(pids[2]).unwrap_err().desc, "PID ld does not exist");
}

#[test]
fn held_bytes_are_bounded_and_accounted_for() {
    let mut bench = Bench::new(LIMITS);
    let big = "head -c 700 /dev/zero; head -c 300 /dev/zero >&2";
    let first = bench.start(big, None).unwrap();
    bench.wait_for_finished(1);
    assert_eq!(bench.programs.held, 900);
    // The older result gives way to the newer one.
    let second = bench.start(big, None).unwrap();
    let number = i32::try_from(second).unwrap();
    bench.turn_until(|programs| programs.finished.contains(&Finished::Plain(number)).then_some(()));
    assert!(bench.programs.status(first).is_err());
    let result = bench.result(second);
    assert_eq!(result.out_data.unwrap().0.len(), 600);
    assert_eq!((result.out_truncated, result.err_truncated), (Some(true), Some(false)));
    assert_eq!(bench.programs.held, 0);

    // Input counts until it is written; the pipe takes all of it here.
    let reader = bench.start("exec sleep 60", Some(&[b'x'; 900])).unwrap();
    bench.turn_until(|programs| (programs.held == 0).then_some(()));
    let refused = bench.start("exit", Some(&[0; 1001])).unwrap_err();
    assert_eq!(
        refused,
        "running programs hold 0 bytes of input and output already; the limit is 1000"
    );
    kill(reader);
    bench.result(reader);
    assert!(bench.programs.records.is_empty() && bench.programs.finished.is_empty());
    assert_eq!((bench.programs.held, bench.programs.starting.len()), (0, 0));
}

#[test]
fn without_a_descriptor_an_end_is_found_by_looking() {
    let mut bench = Bench::new(LIMITS);
    let pid = bench.start("exit 7", None).unwrap();
    let record = bench.programs.records.values_mut().next().unwrap();
    close(&bench.programs.epoll, &mut record.pidfd);
    assert_eq!(bench.result(pid).exitcode, Some(7));
}

#[test]
fn a_start_that_takes_too_long_is_answered_and_undone() {
    let mut bench = Bench::new(Limits { patience: Duration::ZERO, ..LIMITS });
    bench.submit("exec sleep 60", None);
    bench.programs.give_up_on_starts();
    let text = "Failed to execute child process “/bin/sh” (Connection timed out)";
    assert_eq!(bench.started().unwrap_err(), text);
    bench.wait_for_finished(1);
    let Finished::Plain(pid) = bench.programs.finished[0] else { panic!() };
    assert_eq!(bench.programs.status(pid.into()).unwrap().signal, Some(9));
    assert!(bench.programs.starting.is_empty());
}
