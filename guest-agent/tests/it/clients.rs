//! Clients that come and go.

use std::net::Shutdown;

use crate::bed::Bed;

#[test]
fn half_an_object_dies_with_its_client() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut first = agent.connect();
    assert_eq!(first.call("guest-ping", ""), "{\"return\": {}}");
    first.send("{'execute':'guest-sync','arguments':{'id':1");
    drop(first);
    let mut second = agent.connect();
    assert_eq!(second.ask("{'execute':'guest-sync','arguments':{'id':2}}"), "{\"return\": 2}");
}

#[test]
fn a_half_closed_client_is_still_answered() {
    let bed = Bed::new();
    std::fs::write(bed.path("file"), "content").unwrap();
    let agent = bed.start();
    let mut client = agent.connect();
    client.send("{'execute':'guest-ping'}\n");
    let file = bed.path("file");
    client.send(format!(
        "{{'execute':'guest-file-open','arguments':{{'path':'{}'}}}}",
        file.display()
    ));
    client.send("{'execute':'guest-file-read','arguments':{'handle':1000}}");
    client.stream.shutdown(Shutdown::Write).unwrap();
    let answers = String::from_utf8(client.rest()).unwrap();
    let expected = "{\"return\": {}}\n{\"return\": 1000}\n{\"return\": \
                    {\"buf-b64\": \"Y29udGVudA==\", \"count\": 7, \"eof\": true}}\n";
    assert_eq!(answers, expected);
}

#[test]
fn the_next_client_is_served_when_the_first_has_gone() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut first = agent.connect();
    assert_eq!(first.call("guest-ping", ""), "{\"return\": {}}");
    let mut second = agent.connect();
    let mut third = agent.connect();
    second.send("{'execute':'guest-sync','arguments':{'id':2}}");
    third.send("{'execute':'guest-sync','arguments':{'id':3}}");
    third.stream.shutdown(Shutdown::Write).unwrap();
    // The first one is the only one that is served.
    assert_eq!(first.get("guest-sync", "{\"id\":1}"), "1");
    second.stream.set_nonblocking(true).unwrap();
    let refused = std::io::Read::read(&mut second.stream, &mut [0; 1]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    second.stream.set_nonblocking(false).unwrap();
    drop(first);
    assert_eq!(second.line(), "{\"return\": 2}");
    drop(second);
    assert_eq!(third.rest(), b"{\"return\": 3}\n");
}

#[test]
fn what_a_client_sent_whole_runs_although_it_has_gone() {
    let bed = Bed::new();
    let agent = bed.start();
    let path = bed.path("made");
    let mut client = agent.connect();
    client.send(format!(
        "{{'execute':'guest-file-open','arguments':{{'path':'{}','mode':'w'}}}}\
         {{'execute':'guest-file-write','arguments':{{'handle':1000,'buf-b64':'eA=='}}}}",
        path.display()
    ));
    drop(client);
    // On the next connection commands queue behind those.
    assert_eq!(agent.connect().get("guest-file-close", "{\"handle\":1000}"), "{}");
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}

#[test]
fn a_client_that_does_not_read_costs_no_time_and_bounded_memory() {
    let bed = Bed::new();
    std::fs::write(bed.path("file"), vec![0; 1 << 20]).unwrap();
    let agent = bed.start();
    let mut client = agent.connect();
    let path = bed.path("file");
    let handle = client.get("guest-file-open", &format!("{{\"path\":\"{}\"}}", path.display()));
    client.stream.set_nonblocking(true).unwrap();
    let request = format!(
        "{{'execute':'guest-file-read','arguments':{{'handle':{handle},'count':1048576}}}}\
         {{'execute':'guest-file-seek','arguments':{{'handle':{handle},'offset':0,'whence':0}}}}"
    );
    // Until the agent has enough of it.
    let mut sent = 0;
    let mut refused = 0;
    crate::bed::wait_for("back pressure", || {
        match std::io::Write::write(&mut client.stream, request.as_bytes()) {
            Ok(n) if n == request.len() => sent += 1,
            _ => refused += 1,
        }
        (refused > 50).then_some(())
    });
    assert!(sent > 0);
    let ticks = |agent: &crate::bed::Agent| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks(&agent);
    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
    rustix::event::poll(&mut [], Some(&pause)).unwrap();
    assert!(ticks(&agent) - before <= 2, "the agent spins");
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.child.id())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
    let rss: u64 = rss.strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(rss < 40_000, "{rss} kB");
}
