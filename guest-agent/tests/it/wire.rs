//! The exact bytes of answers.

use crate::bed::Bed;

fn error(class: &str, desc: &str) -> String {
    format!("{{\"error\": {{\"class\": \"{class}\", \"desc\": \"{desc}\"}}}}")
}

fn generic(desc: &str) -> String {
    error("GenericError", desc)
}

#[test]
fn errors_of_envelope_and_arguments() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let cases = [
        (
            "{'execute':'guest-foo'}",
            error("CommandNotFound", "The command guest-foo has not been found"),
        ),
        ("[1,2]", generic("QMP input must be a JSON object")),
        ("12 ", generic("QMP input must be a JSON object")),
        ("true ", generic("QMP input must be a JSON object")),
        ("'abc'", generic("QMP input must be a JSON object")),
        ("{}", generic("QMP input lacks member 'execute'")),
        ("{'execute':1}", generic("QMP input member 'execute' must be a string")),
        (
            "{'execute':'guest-ping','arguments':[]}",
            generic("QMP input member 'arguments' must be an object"),
        ),
        (
            "{'execute':'guest-ping','arguments':null}",
            generic("QMP input member 'arguments' must be an object"),
        ),
        (
            "{'execute':'guest-ping','control':{}}",
            generic("QMP input member 'control' is unexpected"),
        ),
        (
            "{'execute':'guest-ping','arguments':{'foo':1}}",
            generic("Parameter 'foo' is unexpected"),
        ),
        ("{'execute':'guest-sync'}", generic("Parameter 'id' is missing")),
        (
            "{'execute':'guest-sync','arguments':{'id':'x'}}",
            generic("Invalid parameter type for 'id', expected: integer"),
        ),
        (
            "{'execute':'guest-sync','arguments':{'id':1.0}}",
            generic("Invalid parameter type for 'id', expected: integer"),
        ),
        (
            "{'execute':'guest-sync','arguments':{'id':9223372036854775808}}",
            generic("Invalid parameter type for 'id', expected: integer"),
        ),
        (
            "{'execute':'guest-file-open','arguments':{'path':null}}",
            generic("Invalid parameter type for 'path', expected: string"),
        ),
        (
            "{'execute':'guest-file-seek','arguments':{'handle':1,'offset':0,'whence':'foo'}}",
            generic("Parameter 'whence' does not accept value 'foo'"),
        ),
        (
            "{'execute':'guest-file-seek','arguments':{'handle':1,'offset':0,'whence':[]}}",
            generic("Invalid parameter type for 'whence', expected: GuestFileWhence"),
        ),
        (
            "{'execute':'guest-fsfreeze-freeze-list','arguments':{'mountpoints':[1]}}",
            generic("Invalid parameter type for 'mountpoints[0]', expected: string"),
        ),
        (
            "{'execute':'guest-shutdown','arguments':{'mode':'x'}}",
            generic("mode is invalid (valid values are: halt|powerdown|reboot"),
        ),
        (
            "{'execute':'guest-file-close','arguments':{'handle':5}}",
            generic("handle '5' has not been found"),
        ),
    ];
    for (request, answer) in cases {
        assert_eq!(client.ask(request), answer, "{request}");
    }
}

#[test]
fn ids_of_any_kind_are_echoed() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    for id in ["1", "\"x\"", "null", "[1, {\"a\": true}]", "9007199254740993"] {
        let answer = client.ask(format!("{{\"execute\":\"guest-ping\",\"id\":{id}}}"));
        assert_eq!(answer, format!("{{\"return\": {{}}, \"id\": {id}}}"));
    }
    let answer = client.ask("{'execute':'guest-foo','id':7}");
    assert!(answer.starts_with("{\"id\": 7, \"error\": "), "{answer}");
}

#[test]
fn syncs_echo_and_only_the_delimited_success_has_a_sentinel() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    assert_eq!(client.get("guest-sync", "{\"id\":-9223372036854775808}"), "-9223372036854775808");
    assert_eq!(client.call("guest-sync-delimited", "{\"id\":7}"), "<FF>{\"return\": 7}");
    assert_eq!(client.call("guest-sync-delimited", ""), generic("Parameter 'id' is missing"));
    assert_eq!(client.get("guest-sync", "{\"id\":8}"), "8");
    // As Proxmox VE sends it: sync and command in one go.
    client.send(
        "{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":1000010}}\n\
         {\"execute\":\"guest-ping\",\"arguments\":{}}\n",
    );
    assert_eq!(client.line(), "<FF>{\"return\": 1000010}");
    assert_eq!(client.line(), "{\"return\": {}}");
}

#[test]
fn framing_needs_no_newline_and_survives_garbage() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    assert_eq!(client.ask("{\"execute\":\"guest-ping\"}"), "{\"return\": {}}");
    client.send("{'execute':'guest-ping'}{'execute':'guest-ping'}");
    assert_eq!([client.line(), client.line()], ["{\"return\": {}}", "{\"return\": {}}"]);
    for byte in "{'execute':'guest-ping'}".bytes() {
        client.send([byte]);
    }
    assert_eq!(client.line(), "{\"return\": {}}");
    // Half an object, then the byte that no text has: one error, and all is well.
    client.send(b"{'execute': \xFF{'execute':'guest-ping'}");
    let line = client.line();
    assert!(line.contains("JSON parse error, stray '\\uFFFD'"), "{line}");
    assert_eq!(client.line(), "{\"return\": {}}");
    client.send(b"\xFF\xFF");
    assert!(client.line().contains("stray"));
    assert!(client.line().contains("stray"));
}

#[test]
fn limits_are_errors_and_the_channel_goes_on() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let deep = format!("{}{}\n", "[".repeat(1025), "]".repeat(1025));
    assert_eq!(client.ask(deep), generic("JSON nesting depth limit exceeded"));
    assert_eq!(client.call("guest-ping", ""), "{\"return\": {}}");
}

#[test]
fn info_lists_the_commands_from_the_end() {
    let bed = Bed::new();
    let agent = bed.start();
    let info = agent.connect().get("guest-info", "");
    assert!(info.contains("\"version\": \"11.1.3\""), "{info}");
    let at = |name: &str| info.find(&format!("\"{name}\"")).unwrap();
    assert!(at("guest-fsfreeze-thaw") < at("guest-ping"));
    assert!(at("guest-ping") < at("guest-sync-delimited"));
    assert_eq!(info.matches("\"enabled\": true").count(), info.matches("\"name\"").count());
    // Shutdown and the three ways to suspend.
    assert_eq!(info.matches("\"success-response\": false").count(), 4);
}

#[test]
fn many_commands_in_one_write_are_answered_in_order() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let count = 5000;
    let requests: String = (0..count)
        .map(|id| format!("{{\"execute\":\"guest-sync\",\"arguments\":{{\"id\":{id}}}}}\n"))
        .collect();
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        std::io::Write::write_all(&mut writer, requests.as_bytes()).unwrap();
    });
    for id in 0..count {
        assert_eq!(client.line(), format!("{{\"return\": {id}}}"));
    }
    sender.join().unwrap();
}
