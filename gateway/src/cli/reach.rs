//! How to reach the gateway: the same options, variables and default for every command.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use qga_gateway::client::{Gateway, Place, Trust};
use qga_gateway::config::Config;

use super::exit::Usage;

const URL: &str = "QGA_GATEWAY_URL";
const TOKEN: &str = "QGA_GATEWAY_TOKEN";
const TOKEN_FILE: &str = "QGA_GATEWAY_TOKEN_FILE";
const CACERT: &str = "QGA_GATEWAY_CACERT";
const CERT: &str = "QGA_GATEWAY_CERT";
const KEY: &str = "QGA_GATEWAY_KEY";

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "The gateway")]
pub(super) struct Reach {
    /// Where it is: `https://HOST`, `http://HOST:PORT` or `unix:PATH`; else what
    /// `QGA_GATEWAY_URL` says,
    /// else the Unix socket of this host's gateway
    #[arg(long, value_name = "URL")]
    url: Option<Place>,
    /// Its Unix socket: short for --url unix:PATH
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    socket: Option<PathBuf>,
    /// The file with the bearer token; else the one that `QGA_GATEWAY_TOKEN_FILE` names, else the
    /// token in `QGA_GATEWAY_TOKEN`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Who may have signed its certificate, PEM (`QGA_GATEWAY_CACERT`); else whom this host believes
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The certificate to show it, PEM (`QGA_GATEWAY_CERT`)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of that certificate, PEM (`QGA_GATEWAY_KEY`)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl Reach {
    /// The gateway, which is not called yet. `config` is where this host's gateway has its own.
    pub(super) fn gateway(&self, config: &Path) -> anyhow::Result<Gateway> {
        let place = match (&self.url, &self.socket, variable(URL)) {
            (Some(place), ..) => place.clone(),
            (_, Some(socket), _) => Place::Unix(socket.clone()),
            (.., Some(url)) => url.parse().map_err(|error| Usage(format!("{URL}: {error}")))?,
            // Whoever may use the socket need not be allowed to read the file.
            _ => Place::Unix(Config::load(config).unwrap_or_default().listen.unix),
        };
        let file = |given: &Option<PathBuf>, name| {
            given.clone().or_else(|| variable(name).map(PathBuf::from))
        };
        let token = match file(&self.token_file, TOKEN_FILE) {
            Some(file) => Some(token(&file)?),
            None => variable(TOKEN).map(|token| token.trim().to_owned()),
        };
        let identity = match (file(&self.cert, CERT), file(&self.key, KEY)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(Usage(format!("{CERT} and {KEY} belong together")).into()),
        };
        let trust = Trust { authorities: file(&self.cacert, CACERT), identity };
        Ok(Gateway::new(place, token, &trust)?)
    }

    /// What a command line says of the way that is not complete yet; for completions.
    pub(super) fn of(words: &[String]) -> Self {
        let value = |name: &str| {
            let with = format!("{name}=");
            let at = words.iter().position(|word| word == name || word.starts_with(&with))?;
            match words[at].strip_prefix(&with) {
                Some(value) => Some(value.to_owned()),
                None => words.get(at + 1).cloned(),
            }
        };
        let file = |name| value(name).map(PathBuf::from);
        Self {
            url: value("--url").and_then(|url| url.parse().ok()),
            socket: file("--socket"),
            token_file: file("--token-file"),
            cacert: file("--cacert"),
            cert: file("--cert"),
            key: file("--key"),
        }
    }
}

/// A variable of the environment; one that is empty says nothing.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn token(file: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(Usage(format!("{}: holds no token", file.display())).into());
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_not_complete_says_the_way_too() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let reach = Reach::of(&words("cp --url=http://a:1 --token-file /t we"));
        assert_eq!(reach.url, Some("http://a:1".parse().unwrap()));
        assert_eq!(reach.token_file.as_deref(), Some(Path::new("/t")));
        assert_eq!(Reach::of(&words("cp --socket")).socket, None);
    }
}
