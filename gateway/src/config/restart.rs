//! What of a configuration only a start takes over.

use super::Config;

impl Config {
    /// The keys that differ from `running` and are not taken over by a reload.
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        let (new, old) = (&self.listen, &running.listen);
        let (limits, before) = (&self.limits, &running.limits);
        let differing = [
            ("state_dir", self.state_dir != running.state_dir),
            ("listen.unix", new.unix != old.unix),
            ("listen.tcp", new.tcp != old.tcp),
            ("listen.tls", new.tls != old.tls),
            ("listen.insecure_tcp", new.insecure_tcp != old.insecure_tcp),
            ("listen.token_file", new.token_file != old.token_file),
            ("listen.allowed_hosts", new.allowed_hosts != old.allowed_hosts),
            ("cors", self.cors != running.cors),
            ("audit", self.audit != running.audit),
            ("telemetry", self.telemetry != running.telemetry),
            ("limits.events_kept", limits.events_kept != before.events_kept),
            ("limits.events_kept_bytes", limits.events_kept_bytes != before.events_kept_bytes),
            ("limits.event_subscribers", limits.event_subscribers != before.event_subscribers),
        ];
        differing.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}
