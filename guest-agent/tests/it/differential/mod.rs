//! One corpus of requests, asked of Debian's qemu-ga and of our agent side by side.
//!
//! What they answer is compared by its meaning ([`Reply`]); each intended difference stands in
//! `differences.txt`, with both answers and a reason. One that no longer differs is a failure.

mod corpus;
mod differences;
mod reply;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{Timespec, poll};
use rustix::fs::{FileType, Mode};
use serde_json::{Value, json};

use self::corpus::{Request, Section};
use self::differences::{Difference, Differences};
use self::reply::Reply;
use crate::bed::{AGENT, Agent, Bed, Client, LIMIT};
use crate::interop::qemu_ga;

/// What an agent would need to do harm to the machine that the test runs on.
const WITHOUT: &str = "-sys_admin,-sys_boot,-sys_time,-sys_module,-sys_rawio";

/// An agent, a client of it, and what it was asked to run last.
struct Side {
    client: Client,
    agent: Agent,
    bed: Bed,
    pid: i64,
    fences: u32,
}

impl Side {
    fn start(program: &str) -> Self {
        let bed = Bed::new();
        std::fs::write(bed.path("hello"), "hello world\n").unwrap();
        std::fs::write(bed.path("empty"), "").unwrap();
        std::fs::create_dir(bed.path("sub")).unwrap();
        symlink("hello", bed.path("link")).unwrap();
        symlink("nothing", bed.path("dangling")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            bed.path("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let plain = bed.command(program);
        let mut command = plain;
        if rustix::process::geteuid().is_root() {
            let inner = command;
            command = Command::new("setpriv");
            command.arg(format!("--bounding-set={WITHOUT}")).arg(inner.get_program());
            command.args(inner.get_args()).current_dir(bed.dir.path()).stderr(Stdio::null());
        }
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let agent = Agent::spawn(&mut command, &bed.path("socket"));
        Self { client: agent.connect(), agent, bed, pid: 0, fences: 0 }
    }

    /// The answers to a request: all lines until that to a ping behind it.
    fn ask(&mut self, request: &Request) -> Vec<Reply> {
        let bytes = request.bytes(self.pid);
        for _ in 0..LIMIT.as_millis() / 5 {
            let replies = self.exchange(&bytes, request);
            if !(request.until_exited
                && replies[0].pointer("/return/exited") == Some(&json!(false)))
            {
                return replies;
            }
            poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).unwrap();
        }
        panic!("{}: not within {LIMIT:?}", request.text);
    }

    fn exchange(&mut self, bytes: &[u8], request: &Request) -> Vec<Reply> {
        self.fences += 1;
        let fence = json!(format!("fence {}", self.fences));
        self.client.send(bytes);
        self.client.send(format!("{{\"execute\":\"guest-ping\",\"id\":{fence}}}\n"));
        let mut replies = Vec::new();
        loop {
            let line = self.client.line();
            let reply = Reply::new(&line, self.bed.dir.path());
            if reply.pointer("/id") == Some(&fence) {
                break;
            }
            if let Some(pid) = reply.pointer("/return/pid").and_then(Value::as_i64) {
                self.pid = pid;
            }
            replies.push(reply.normalised(&request.text));
        }
        if replies.is_empty() {
            replies.push(Reply::none());
        }
        replies
    }

    /// What is in the directory afterwards: files by name, with their content.
    fn files(mut self) -> BTreeMap<String, Vec<u8>> {
        self.agent.kill();
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(self.bed.dir.path()).unwrap() {
            let entry = entry.unwrap();
            let file = entry.file_type().unwrap().is_file();
            let content = if file { std::fs::read(entry.path()).unwrap() } else { Vec::new() };
            files.insert(entry.file_name().into_string().unwrap(), content);
        }
        files
    }
}

fn compare(qemu_ga: &Path, section: &Section, listed: &mut Differences) -> Vec<Difference> {
    let [mut theirs, mut ours] = [qemu_ga.to_str().unwrap(), AGENT].map(Side::start);
    let mut unlisted = Vec::new();
    for request in &section.requests {
        let mut ask = || Difference {
            request: request.text.clone(),
            theirs: theirs.ask(request),
            ours: ours.ask(request),
        };
        let mut difference = ask();
        // The machine itself may change between two questions; other tests make disks.
        for _ in 0..20 {
            if difference.theirs == difference.ours || !request.is_query() {
                break;
            }
            difference = ask();
        }
        if difference.theirs != difference.ours && !listed.take(&difference) {
            unlisted.push(difference);
        }
    }
    let [theirs, ours] = [theirs.files(), ours.files()];
    for (name, content) in &theirs {
        let same = ours.get(name) == Some(content);
        assert!(same, "{}: {name} is not the same afterwards", section.heading);
    }
    assert_eq!(ours.len(), theirs.len(), "{}: as many files afterwards", section.heading);
    unlisted
}

#[test]
fn every_answer_is_that_of_qemu_ga_or_differs_as_listed() {
    let Some(qemu_ga) = qemu_ga() else { return };
    if rustix::process::geteuid().is_root() && Command::new("setpriv").arg("-V").output().is_err() {
        qga_testing::missing("no setpriv to take capabilities from the agents");
        return;
    }
    let corpus = corpus::read();
    let mut listed = Differences::read();
    let mut unlisted = Vec::new();
    for section in &corpus {
        for difference in compare(&qemu_ga, section, &mut listed) {
            unlisted.push(format!("[{}]\n{difference}", section.heading));
        }
    }
    let requests: usize = corpus.iter().map(|section| section.requests.len()).sum();
    let total = unlisted.len();
    assert!(unlisted.is_empty(), "{total} of {requests} differ:\n{}", unlisted.join("\n"));
    let stale: Vec<_> = listed.left().map(ToString::to_string).collect();
    assert!(stale.is_empty(), "listed, but not so any more:\n{}", stale.join("\n"));
}

/// What the lists of commands differ in: the name, and what 7.2 says of it.
const COMMANDS: [(&str, Option<bool>); 3] = [
    // Of Windows: disabled before 9.1, absent since.
    ("guest-get-devices", Some(false)),
    // Since 9.1 and 10.0.
    ("guest-network-get-route", None),
    ("guest-get-load", None),
];

#[test]
fn the_commands_are_those_of_qemu_ga() {
    let Some(qemu_ga) = qemu_ga() else { return };
    let [mut theirs, mut ours] = [qemu_ga.to_str().unwrap(), AGENT].map(|program| {
        let info: Value =
            serde_json::from_str(&Side::start(program).client.get("guest-info", "")).unwrap();
        let commands = info["supported_commands"].as_array().unwrap().iter();
        let commands = commands.map(|command| {
            assert_eq!(command.as_object().unwrap().len(), 3);
            let is = |member: &str| command[member].as_bool().unwrap();
            (command["name"].as_str().unwrap().to_owned(), [is("enabled"), is("success-response")])
        });
        commands.collect::<BTreeMap<_, _>>()
    });
    for (name, enabled) in COMMANDS {
        assert_eq!(theirs.remove(name).map(|[enabled, _]| enabled), enabled, "{name}");
        assert_eq!(ours.remove(name).is_some(), enabled.is_none(), "{name}");
    }
    // What is ours alone says so by its name.
    ours.retain(|name, _| !name.starts_with("x-guest-"));
    assert_eq!(ours, theirs);
}
