//! The same freeze test over the bare socket and through REST.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::raw_agent::RawAgent;
use crate::rest::Rest;

/// Something that can freeze a guest.
pub trait Target {
    /// Proves that the agent answers.
    ///
    /// # Errors
    /// It does not.
    fn ping(&mut self) -> Result<()>;

    /// Freezes every filesystem; gives how many the kernel froze.
    ///
    /// # Errors
    /// The freeze failed.
    fn freeze(&mut self) -> Result<u64>;

    /// Whether the agent says that the guest is frozen.
    ///
    /// # Errors
    /// The agent does not say.
    fn is_frozen(&mut self) -> Result<bool>;

    /// Thaws.
    ///
    /// # Errors
    /// The thaw failed.
    fn thaw(&mut self) -> Result<()>;
}

impl Target for RawAgent {
    fn ping(&mut self) -> Result<()> {
        self.sync()?;
        self.call("guest-ping", &json!({})).map(drop)
    }

    fn freeze(&mut self) -> Result<u64> {
        let count = self.call("guest-fsfreeze-freeze", &json!({}))?;
        count.as_u64().with_context(|| format!("freeze returned {count}"))
    }

    fn is_frozen(&mut self) -> Result<bool> {
        Ok(self.call("guest-fsfreeze-status", &json!({}))? == "frozen")
    }

    fn thaw(&mut self) -> Result<()> {
        self.call("guest-fsfreeze-thaw", &json!({})).map(drop)
    }
}

/// A VM behind a gateway.
#[derive(Clone, Debug)]
pub struct RestTarget {
    /// The gateway.
    pub rest: Rest,
    /// The VM's id.
    pub vm: String,
}

impl RestTarget {
    /// Path of something of this VM, such as `/fsfreeze`, or of the VM itself for `""`.
    pub fn path(&self, rest: &str) -> String {
        format!("/vms/{}{rest}", self.vm)
    }

    /// The VM's resource.
    ///
    /// # Errors
    /// Any status but 200.
    pub fn vm(&self) -> Result<Value> {
        self.rest.get(&self.path(""))?.expect(200)
    }

    /// The link's state, such as `ready`.
    ///
    /// # Errors
    /// As [`RestTarget::vm`].
    pub fn link_state(&self) -> Result<String> {
        let vm = self.vm()?;
        let state = vm["link"]["state"].as_str().or_else(|| vm["state"].as_str());
        Ok(state.with_context(|| format!("no link state in {vm}"))?.to_owned())
    }
}

impl Target for RestTarget {
    fn ping(&mut self) -> Result<()> {
        let reply = self.rest.post(&self.path("/ping"), &json!({}))?;
        anyhow::ensure!(
            (200..300).contains(&reply.status),
            "ping: {} {}",
            reply.status,
            reply.json
        );
        Ok(())
    }

    fn freeze(&mut self) -> Result<u64> {
        let answer = self
            .rest
            .post(
                &self.path("/fsfreeze"),
                &json!({ "ttl_seconds": 120, "freeze_timeout_seconds": 60 }),
            )?
            .expect(201)?;
        answer["filesystems"].as_u64().with_context(|| format!("no count in {answer}"))
    }

    fn is_frozen(&mut self) -> Result<bool> {
        let answer = self.rest.get(&self.path("/fsfreeze"))?.expect(200)?;
        let status = answer["status"].as_str().or_else(|| answer["state"].as_str());
        Ok(status.with_context(|| format!("no status in {answer}"))? == "frozen")
    }

    fn thaw(&mut self) -> Result<()> {
        self.rest.delete(&self.path("/fsfreeze"))?.expect(200).map(drop)
    }
}
