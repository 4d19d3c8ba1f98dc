//! A token for some files and programs, from the gateway's grant to the guest's kernel.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Here;

/// Of the token `limited`.
const HASH: &str = "7b508dace774f8adc1b121c1812b740904be6dfd37e3b5e3579bc81fbf6f5553";

impl Here {
    /// The status and body of a request with that token.
    fn limited(&self, arguments: &[&str], path: &str) -> (u16, Vec<u8>) {
        let token = ["-H", "authorization: Bearer limited", "-w", "\n%{http_code}"];
        let output = self.curl(&[&token, arguments].concat(), path).stdout;
        let cut = output.iter().rposition(|&byte| byte == b'\n').expect("a status");
        let status = std::str::from_utf8(&output[cut + 1..]).unwrap().parse().unwrap();
        (status, output[..cut].to_vec())
    }

    fn refused(&self, arguments: &[&str], path: &str, code: &str) {
        let (status, body) = self.limited(arguments, path);
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &problem["code"]), (403, &json!(code)), "{path}: {problem}");
    }
}

#[test]
fn a_limited_token_reaches_what_lies_below_and_no_link_leads_it_out() {
    let files = TempDir::new().unwrap();
    let root = files.path().canonicalize().unwrap();
    for name in ["in", "in/sub", "out"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    fs::write(root.join("in/f"), "inside").unwrap();
    fs::write(root.join("out/f"), "secret").unwrap();
    symlink("../out/f", root.join("in/link")).unwrap();
    symlink("../out", root.join("in/dir")).unwrap();
    let prefix = root.join("in");
    let config = format!(
        "[[token]]\nname = \"limited\"\nsha256 = \"{HASH}\"\n[[grant]]\nto = [\"token:limited\"]\n\
         rights = [\"files_read\", \"files_write\", \"exec\"]\nfiles = [{prefix:?}]\n\
         programs = [{{ path = \"/bin/echo\", args = [\"*\"] }}]\n"
    );
    let Some(here) = Here::start(&config) else { return };
    let content = |name: &str| format!("/vms/vm/files/content?path={}", root.join(name).display());
    let entry = |name: &str| format!("/vms/vm/files?path={}", root.join(name).display());
    assert_eq!(here.limited(&[], &content("in/f")), (200, b"inside".to_vec()));
    assert_eq!(here.limited(&["-X", "PUT", "--data-binary", "x"], &content("in/sub/new")).0, 201);
    assert_eq!(here.limited(&[], &entry("in")).0, 200);
    // By its name outside: the gateway. By a link: the guest's kernel.
    here.refused(&[], &content("out/f"), "forbidden");
    here.refused(&[], &content("in/../out/f"), "forbidden");
    for way in ["in/link", "in/dir/f"] {
        here.refused(&[], &content(way), "guest_permission_denied");
        here.refused(
            &["-X", "PUT", "--data-binary", "x"],
            &content(way),
            "guest_permission_denied",
        );
        here.refused(&[], &entry(way), "guest_permission_denied");
    }
    here.refused(&["-X", "DELETE"], &entry("in/dir/f"), "guest_permission_denied");
    let moved = format!("{}&to={}", entry("in/f"), root.join("in/dir/g").display());
    here.refused(&["-X", "PATCH"], &moved, "guest_permission_denied");
    let made = format!("{}&kind=directory&parents=true", entry("in/dir/a/b"));
    here.refused(&["-X", "PUT"], &made, "guest_permission_denied");
    assert_eq!(fs::read(root.join("out/f")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(root.join("out")).unwrap().count(), 1);
    let start = |body: Value| {
        let body = body.to_string();
        let json = ["-H", "content-type: application/json", "-d", &body];
        here.limited(&json, "/vms/vm/processes?wait=20")
    };
    let (status, body) = start(json!({"argv": ["/bin/echo", "hello"]}));
    let process: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &process["stdout"]["text"]), (201, &json!("hello\n")), "{process}");
    for argv in [json!(["/bin/sh", "-c", "id"]), json!(["echo", "x"]), json!(["/bin/echo", "-e"])] {
        assert_eq!(start(json!({ "argv": argv })).0, 403, "{argv}");
    }
    // What somebody else runs is not there for it.
    let pid = here.start_program(&json!({"argv": ["sleep", "600"]}));
    assert_eq!(here.limited(&[], &format!("/vms/vm/processes/{pid}")).0, 404);
    assert_eq!(here.limited(&["-X", "DELETE"], &format!("/vms/vm/processes/{pid}")).0, 404);
    assert_eq!(here.show(pid)["state"], "running");
    let gone = here.gateway.rest().delete(&format!("/vms/vm/processes/{pid}")).unwrap();
    gone.expect(200).unwrap();
}
