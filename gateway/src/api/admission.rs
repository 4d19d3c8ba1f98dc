//! Whether a command can work, before it is sent: by the agent's own list and by the freeze.
//!
//! The list is that of an unfrozen `guest-info`: while frozen, an agent shows all but six commands
//! as disabled. An agent can be replaced behind an open socket, so before a refusal it is asked
//! again.

use qga_proto::command::Command as _;
use qga_proto::command::{
    AgentCommand, CommandInfo, FsfreezeStatus, GuestFsfreezeStatus, GuestInfo,
};

use super::caller::Vm;
use super::error::{Outcome, Problem, guest};
use crate::vm::{CommandState, LeaseState, LinkState};

impl Vm {
    /// Refuses a command that the agent does not have, that the guest's policy forbids, or that
    /// waits for a thaw. Where nothing is known of the agent, it has to say so itself.
    pub(super) async fn admit(&self, info: &CommandInfo) -> Result<(), Problem> {
        // Every agent has these, and they say by themselves what is wrong.
        if info.allowed_while_frozen && !info.is_extension() {
            return Ok(());
        }
        let word = |vm: &Self| vm.handle.capabilities().and_then(|c| c.command(info.name));
        let refuses = |state| matches!(state, Some(CommandState::Missing | CommandState::Disabled));
        if refuses(word(self)) {
            self.ask_anew().await;
        }
        let refusal = match word(self) {
            Some(CommandState::Missing) => guest::unsupported(&self.handle, info.name),
            Some(CommandState::Disabled) => guest::disabled(&self.handle, info.name),
            _ if info.allowed_while_frozen || !self.is_frozen().await => return Ok(()),
            _ => guest::frozen(&self.handle, info.name, self.lease().map(|lease| lease.id)),
        };
        let frozen = refusal.code() == super::error::Code::VmFrozen;
        let refusal = refusal.outcome(Outcome::NotSent, frozen);
        Err(refusal.vm(self.handle.id()).command(info.name))
    }

    /// Whether the agent has this extension, and its policy allows it: where not, much can be done
    /// without.
    pub(super) async fn offers(&self, info: &CommandInfo) -> Result<bool, Problem> {
        let Some(agent) = self.handle.capabilities() else {
            // Not connected yet: the answer brings the list, or what is wrong.
            let agent = self.call(GuestInfo {}).await?;
            let mut all = agent.supported_commands.into_iter();
            return Ok(all.any(|command| command.name == info.name && command.enabled));
        };
        if agent.command(info.name) == Some(CommandState::Missing) {
            self.ask_anew().await;
        }
        let agent = self.handle.capabilities();
        Ok(agent.is_some_and(|agent| agent.command(info.name) == Some(CommandState::Enabled)))
    }

    /// What the agent's list says of a command that no table has.
    pub(super) async fn listed(&self, name: &str) -> Result<Option<AgentCommand>, Problem> {
        let find = || {
            let known = self.handle.capabilities()?;
            known.commands.iter().flatten().find(|command| command.name == name).cloned()
        };
        if let Some(command) = find() {
            return Ok(Some(command));
        }
        if self.handle.capabilities().is_some() {
            self.ask_anew().await;
            return Ok(find());
        }
        // Not connected yet: the answer brings the list, or what is wrong.
        let info = self.call(GuestInfo {}).await?;
        Ok(info.supported_commands.into_iter().find(|command| command.name == name))
    }

    /// Has the list renewed, if that is possible now.
    async fn ask_anew(&self) {
        if self.handle.link().state == LinkState::Ready && self.lease().is_none() {
            let options = self.handle.options(&GuestInfo::INFO);
            self.handle.renew_capabilities(options).await;
        }
    }

    /// Whether the guest refuses now what it does not run while frozen.
    pub(super) async fn is_frozen(&self) -> bool {
        match self.lease().map(|lease| lease.state) {
            // The agent is at it, and answers nothing else meanwhile.
            Some(LeaseState::Freezing | LeaseState::Thawing) => return true,
            _ if self.handle.link().state != LinkState::Frozen => return false,
            _ => {}
        }
        // What the link knows may be old: somebody else can have thawed, or the guest by itself.
        let options = self.handle.options(&GuestFsfreezeStatus::INFO);
        match self.handle.call(GuestFsfreezeStatus {}, options).await {
            Ok(status) => status != FsfreezeStatus::Thawed,
            // The command itself finds out what is wrong.
            Err(_) => self.handle.link().state == LinkState::Frozen,
        }
    }
}
