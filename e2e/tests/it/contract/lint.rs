//! What a linter has to say of the document.

use super::{Tools, output, source};

#[test]
fn the_document_is_without_fault() {
    let Some(tools) = Tools::fetched() else { return };
    let config = source("tests/redocly.yaml");
    let mut lint = tools.node("@redocly/cli/bin/cli.js");
    output(lint.arg("lint").arg("--config").arg(config).arg(source("gateway.json")));
}
