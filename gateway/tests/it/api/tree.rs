//! Files and directories by name: what is there, and what comes and goes.

use qga_proto::command::FileKind;
use serde_json::json;

use super::downloads::{content, gateway};
use super::file_agent::FileAgent;
use super::gateway::Gateway;

fn at(path: &str) -> String {
    format!("/vms/vm/files?path={path}")
}

#[tokio::test]
async fn a_file_is_shown_and_a_directory_in_pages() {
    let agent = FileAgent::new(true);
    agent.put("/dir/b", b"12345");
    agent.put("/dir/c", b"");
    agent.put_kind("/dir/a", FileKind::Fifo, b"");
    let gateway = gateway(&agent, "").await;
    let file = gateway.ask("GET", &at("/dir/b")).send().await;
    let body = file.expect(200);
    assert_eq!((&body["path"], &body["stat"]["size"]), (&json!("/dir/b"), &json!(5)));
    assert_eq!(file.header("etag"), format!("\"{}\"", body["etag"].as_str().unwrap()));
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let page = gateway.ask("GET", &format!("{}&limit=2{after}", at("/dir"))).send().await;
        let page = page.expect(200);
        assert_eq!(page["stat"]["kind"], "directory");
        let entries = page["entries"].as_array().unwrap();
        names.extend(entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(names, ["a", "b", "c"]);
    gateway.ask("GET", &at("/no")).send().await.problem(404, "file_not_found");
    for wrong in ["&after=*", "&limit=1001", "&limit=x", "&follow=x", "&kind=directory"] {
        let ask = gateway.ask("GET", &format!("{}{wrong}", at("/dir")));
        ask.send().await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn names_keep_their_bytes() {
    let agent = FileAgent::new(true);
    let gateway = gateway(&agent, "").await;
    gateway.ask("PUT", &content("/dir/%FF%20%2B")).text("odd").send().await.expect(201);
    let list = gateway.ask("GET", &at("/dir")).send().await.expect(200);
    assert_eq!(list["entries"][0]["name-b64"], "/yAr");
    let file = gateway.ask("GET", &at("/dir/%FF%20%2B")).send().await.expect(200);
    assert_eq!(file["path_b64"], "L2Rpci//ICs=");
    assert_eq!(&*gateway.ask("GET", &content("/dir/%FF+%2B")).send().await.body, b"odd");
}

#[tokio::test]
async fn directories_are_made_and_things_renamed_and_removed() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"1");
    agent.put("/g", b"2");
    let gateway = gateway(&agent, "").await;
    let send = |method: &str, path: &str| gateway.ask(method, path).send();
    let make = format!("{}&kind=directory&mode=0750&parents=true", at("/new"));
    assert_eq!(send("PUT", &make).await.status, 201);
    send("PUT", &make).await.problem(409, "file_exists");
    send("PUT", &at("/other")).await.problem(400, "bad_request");
    send("PATCH", &format!("{}&to=/g", at("/f"))).await.problem(409, "file_exists");
    let replace = format!("{}&to=/g&replace=true", at("/f"));
    assert_eq!(send("PATCH", &replace).await.status, 204);
    assert_eq!((agent.content("/f"), agent.content("/g").unwrap()), (None, b"1".to_vec()));
    let remove = |tag: &str| gateway.ask("DELETE", &at("/g")).header("if-match", tag).send();
    remove("\"1-1-1-1\"").await.problem(412, "precondition_failed");
    let tag = send("GET", &at("/g")).await.header("etag").to_owned();
    assert_eq!(remove(&tag).await.status, 204);
    assert_eq!(agent.content("/g"), None);
    agent.put("/g", b"again");
    assert_eq!(send("DELETE", &content("/g")).await.status, 204);
    send("DELETE", &content("/g")).await.problem(404, "file_not_found");
}

#[tokio::test]
async fn a_stock_agent_has_none_of_it() {
    let agent = FileAgent::new(false);
    let gateway: Gateway = gateway(&agent, "").await;
    for (method, more) in
        [("GET", ""), ("PUT", "&kind=directory"), ("PATCH", "&to=/x"), ("DELETE", "")]
    {
        let ask = gateway.ask(method, &format!("{}{more}", at("/f")));
        ask.send().await.problem(501, "command_unsupported");
    }
    gateway.ask("DELETE", &content("/f")).send().await.problem(501, "command_unsupported");
}
