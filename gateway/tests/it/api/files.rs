//! File handles: the guest's commands one to one, their arguments checked at the edge.

use serde_json::json;

use super::gateway::Gateway;

#[tokio::test]
async fn a_file_is_opened_read_written_moved_in_flushed_and_closed() {
    let gateway = Gateway::start().await;
    let ask = gateway.ask("POST", "/vms/vm/file-handles");
    let opened = ask.json(&json!({"path": "/tmp/x", "mode": "w+"})).send().await;
    assert_eq!(opened.expect(201), json!({"handle": 1000}));
    let handle = opened.header("location").to_owned();
    assert_eq!(handle, "/vms/vm/file-handles/1000");
    let at = |what: &str| gateway.ask("POST", &format!("{handle}/{what}"));
    let read = at("read").json(&json!({"count": 3})).send().await.expect(200);
    assert_eq!(read, json!({"count": 3, "buf-b64": "AAEC", "eof": false}));
    assert_eq!(at("read").send().await.expect(200)["count"], 4096);
    let write = at("write").json(&json!({"buf-b64": "aGVsbG8K"})).send().await.expect(200);
    assert_eq!(write, json!({"count": 6, "eof": false}));
    let wrapped = at("write").json(&json!({"buf-b64": "aGVs\nbG8K\n", "count": 2})).send().await;
    assert_eq!(wrapped.expect(200)["count"], 2);
    for whence in [json!("set"), json!("cur"), json!("end"), json!(0), json!(1), json!(2)] {
        let seek = at("seek").json(&json!({"offset": -5, "whence": whence})).send().await;
        assert_eq!(seek.expect(200), json!({"position": -5, "eof": false}));
    }
    assert_eq!(at("flush").send().await.expect(200), json!({}));
    assert_eq!(gateway.ask("DELETE", &handle).send().await.expect(200), json!({}));
    assert_eq!(gateway.agent.times("guest-file-close"), 1);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_the_name_of_its_member() {
    let gateway = Gateway::start().await;
    for (path, body, says) in [
        ("read", json!({"count": -1}), "\"count\": must be from 0 to 50331648"),
        ("read", json!({"count": 50_331_649}), "\"count\": must be from 0 to 50331648"),
        ("read", json!({"count": "5"}), "expected i64"),
        ("read", json!({"count": 1.5}), "floating point"),
        ("read", json!({"counts": 5}), "unknown field `counts`"),
        ("write", json!({"buf-b64": "QUJ"}), "\"buf-b64\": is not valid base64"),
        ("write", json!({"buf-b64": "QU*="}), "\"buf-b64\": is not valid base64"),
        ("write", json!({"buf-b64": "QUJD\r\n"}), "\"buf-b64\": is not valid base64"),
        ("write", json!({"buf-b64": [1]}), "expected a string"),
        ("write", json!({"buf_b64": "QUJD"}), "unknown field `buf_b64`"),
        ("write", json!({}), "missing field `buf-b64`"),
        ("write", json!({"buf-b64": "QUJD", "count": 4}), "from 0 to the 3 bytes"),
        ("write", json!({"buf-b64": "QUJD", "count": -1}), "from 0 to the 3 bytes"),
        ("seek", json!({"offset": 0}), "missing field `whence`"),
        ("seek", json!({"offset": 0, "whence": 3}), "0, 1 or 2"),
        ("seek", json!({"offset": 0, "whence": "start"}), "unknown variant `start`"),
        ("seek", json!({"offset": 9_223_372_036_854_775_808_u64, "whence": 0}), "offset"),
        ("seek", json!({"offset": true, "whence": 0}), "expected i64"),
    ] {
        let ask = gateway.ask("POST", &format!("/vms/vm/file-handles/1/{path}")).json(&body);
        let problem = ask.send().await.problem(400, "bad_request");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says) || says == "offset", "{path} {body}: {detail}");
    }
    for command in ["guest-file-read", "guest-file-write", "guest-file-seek"] {
        assert_eq!(gateway.agent.times(command), 0, "{command}");
    }
}

#[tokio::test]
async fn large_pieces_pass_both_ways() {
    let gateway = Gateway::start().await;
    let count: usize = 8 << 20;
    let ask = gateway.ask("POST", "/vms/vm/file-handles/1/read").json(&json!({"count": count}));
    let read = ask.send().await.expect(200);
    assert_eq!(read["count"], count);
    let text = read["buf-b64"].as_str().unwrap();
    assert_eq!(text.len(), count.div_ceil(3) * 4);
    let ask = gateway.ask("POST", "/vms/vm/file-handles/1/write").json(&json!({"buf-b64": text}));
    assert_eq!(ask.send().await.expect(200)["count"], count);
    // The largest that goes at once, and one that does not.
    let ask = gateway.ask("POST", "/vms/vm/file-handles/1/read");
    let most = ask.json(&json!({"count": 50_331_648})).send().await.expect(200);
    let ask = gateway.ask("POST", "/vms/vm/file-handles/1/write");
    let over = ask.json(&json!({"buf-b64": most["buf-b64"]})).send().await;
    let problem = over.problem(400, "bad_request");
    assert!(problem["detail"].as_str().unwrap().contains("several requests"), "{problem}");
}
