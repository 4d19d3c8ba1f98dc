//! Side by side with the real qemu-ga: the same requests, the same bytes.

use std::path::Path;

use crate::bed::{AGENT, Agent, Bed, Client};

pub(crate) use qga_testing::installed_stock_agent as installed_qemu_ga;
pub(crate) use qga_testing::stock_agent as qemu_ga;

/// What 7.2 words differently from the release that the agent follows.
fn as_of_11_1(line: &str) -> String {
    let disabled = " has been disabled";
    let line = line.replace(disabled, &format!("{disabled}: the command is not allowed"));
    // Positions in front of parse errors came with 11.1; what is stray is the same.
    match line.find("JSON parse error, ") {
        Some(at) => {
            let start = line[..at].rfind('"').map_or(at, |quote| quote + 1);
            format!("{}{}", &line[..start], &line[at..])
        }
        None => line,
    }
}

/// Members in one order, because theirs is that of a hash.
fn sorted(line: &str) -> String {
    let mut parts: Vec<_> = line.split([',', '{', '}']).map(str::trim).collect();
    parts.sort_unstable();
    parts.join(",")
}

fn requests(dir: &Path) -> Vec<String> {
    let file = dir.join("file").display().to_string();
    let new = dir.join("new").display().to_string();
    let dir = dir.display();
    let mut requests: Vec<String> = [
        "{'execute':'guest-ping','id':{'a':[1,null,'x']}}",
        "{'execute':'guest-sync','arguments':{'id':-5}}",
        "{'execute':'guest-sync','arguments':{'id':9223372036854775808}}",
        "{'execute':'guest-sync-delimited','arguments':{'id':5}}",
        "{'execute':'guest-sync-delimited'}",
        "{'execute':'guest-sync','arguments':{'id':1,'foo':2}}",
        "{'execute':'guest-ping','arguments':null}",
        "{'execute':'guest-foo'}",
        "{'execute':7}",
        "{'foo':7}",
        "[1]",
        "'x'",
        "{'execute':'guest-fsfreeze-status'}",
        "{'execute':'guest-fsfreeze-freeze-list','arguments':{'mountpoints':'x'}}",
        "{'execute':'guest-shutdown','arguments':{'mode':'x'}}",
        "{'execute':'guest-shutdown','arguments':{'mode':1}}",
    ]
    .map(String::from)
    .into();
    let open = |path: &str, mode: &str| {
        format!("{{'execute':'guest-file-open','arguments':{{'path':'{path}','mode':'{mode}'}}}}")
    };
    let on = |command: &str, handle: i64, more: &str| {
        format!("{{'execute':'guest-file-{command}','arguments':{{'handle':{handle}{more}}}}}")
    };
    requests.extend([
        open("/nope/x", "r"),
        open(&file, "q"),
        open(&format!("{dir}"), "w"),
        open(&file, "r"),
        on("read", 1000, ",'count':0"),
        on("read", 1000, ",'count':4"),
        on("read", 1000, ",'count':1"),
        on("read", 1000, ",'count':1"),
        on("read", 1000, ",'count':-1"),
        on("read", 1000, ",'count':50331649"),
        on("seek", 1000, ",'offset':1,'whence':'set'"),
        on("seek", 1000, ",'offset':-1,'whence':'end'"),
        on("seek", 1000, ",'offset':-9,'whence':'cur'"),
        on("seek", 1000, ",'offset':100,'whence':2"),
        on("seek", 1000, ",'offset':0,'whence':3"),
        on("seek", 1000, ",'offset':0,'whence':'x'"),
        on("seek", 1000, ",'offset':0,'whence':null"),
        on("read", 1000, ""),
        on("write", 1000, ",'buf-b64':'QUJD'"),
        on("write", 1000, ",'buf-b64':'QU!D'"),
        on("flush", 1000, ""),
        on("close", 1000, ""),
        on("close", 1000, ""),
        on("read", 1000, ",'count':-1"),
        open(&new, "w+"),
        on("write", 1001, ",'buf-b64':'QUJDREVG','count':4"),
        on("write", 1001, ",'buf-b64':'QUJD','count':4"),
        on("write", 1001, ",'buf-b64':'QUJ'"),
        on("write", 1001, ",'buf-b64':'QU\\nJD'"),
        on("write", 1001, ",'buf-b64':''"),
        on("read", 1001, ",'count':4"),
        on("seek", 1001, ",'offset':0,'whence':0"),
        on("read", 1001, ",'count':10"),
        on("flush", 1001, ""),
        open(&new, "a"),
        on("seek", 1002, ",'offset':0,'whence':'cur'"),
        on("write", 1002, ",'buf-b64':'eA=='"),
        on("flush", 1002, ""),
        on("seek", 1002, ",'offset':0,'whence':'cur'"),
        on("read", 1002, ""),
        open(&new, "a+"),
        on("seek", 1003, ",'offset':0,'whence':'cur'"),
        on("read", 1003, ",'count':2"),
        on("write", 1003, ",'buf-b64':'eQ=='"),
        on("seek", 1003, ",'offset':0,'whence':1"),
        open(&format!("{dir}"), "r"),
        on("read", 1004, ""),
        "{'execute':'guest-file-open','arguments':{'mode':'r'}}".into(),
        "{'execute':'guest-file-read','arguments':{'handle':'x'}}".into(),
        "{'execute':'guest-file-write','arguments':{'handle':1001,'buf-b64':7}}".into(),
    ]);
    requests
}

#[test]
fn answers_are_those_of_qemu_ga() {
    let Some(qemu_ga) = qga_testing::stock_agent() else { return };
    let [ours, theirs] = [AGENT, qemu_ga.to_str().unwrap()].map(|program| {
        let bed = Bed::new();
        let agent = Agent::spawn(&mut bed.command(program), &bed.path("socket"));
        std::fs::write(bed.path("file"), "1234").unwrap();
        let mut client: Client = agent.connect();
        let dir = bed.dir.path().display().to_string();
        requests(bed.dir.path())
            .into_iter()
            .map(|request| {
                let answer = client.ask(&request).replace(&dir, "DIR");
                (request.replace(&dir, "DIR"), answer)
            })
            .collect::<Vec<_>>()
    });
    for ((request, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let theirs =
            if theirs.contains("not allowed") { theirs.clone() } else { as_of_11_1(theirs) };
        assert_eq!(sorted(ours), sorted(&theirs), "{request}");
    }
    assert_eq!(ours.len(), theirs.len());
}
