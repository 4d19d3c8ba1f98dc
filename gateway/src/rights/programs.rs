//! Programs of a guest that a grant is about, with their arguments.
//!
//! A program is named by its absolute path, to the letter. Each argument has a pattern: a glob as
//! of a shell (`*`, `?`, `[…]`; POSIX.1-2024 2.14) for the whole argument, in which `*` also means
//! slashes and nothing. As a shell's pattern leaves out names with a dot in front unless it begins
//! with one, a pattern here leaves out arguments with a hyphen in front: what is meant to be a name
//! is not to become an option. `**` at the end stands for any arguments whatever.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// The pattern for any arguments.
const REST: &str = "**";

/// What a grant allows of programs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramRule {
    /// The program.
    #[serde(deserialize_with = "program")]
    path: String,
    /// Its arguments, one pattern each; none unless told.
    #[serde(default, deserialize_with = "patterns")]
    args: Vec<Pattern>,
    /// Variables of its environment that may be set; none unless told.
    #[serde(default)]
    env: Choice,
    /// Directories that it may be started in; only the agent's own choice unless told.
    #[serde(default)]
    cwd: Choice,
    /// Users as whom it may be run; only the agent's unless told.
    #[serde(default)]
    user: Choice,
    /// Whether it may be given input.
    #[serde(default)]
    stdin: bool,
    /// Whether it may be given a terminal.
    #[serde(default)]
    pty: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    One(glob::Pattern),
    Rest,
}

/// What may be chosen: `true` for anything, or a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "ChoiceText")]
enum Choice {
    #[default]
    None,
    Any,
    These(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`true`, `false`, or a list of what is allowed")]
enum ChoiceText {
    Any(bool),
    These(Vec<String>),
}

/// A program as somebody wants it run.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// The program and its arguments.
    pub argv: &'a [String],
    /// The environment that is set, `NAME=value`.
    pub env: Option<&'a [String]>,
    /// The directory that is asked for.
    pub cwd: Option<&'a str>,
    /// The user that is asked for.
    pub user: Option<&'a str>,
    /// Whether it gets input.
    pub stdin: bool,
    /// Whether it gets a terminal.
    pub pty: bool,
}

/// Why no rule fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// None is about the program.
    #[error(
        "no rule of yours names this program by exactly this path; those that there are name {0}"
    )]
    Program(String),
    /// One is, and this is wrong with the rest.
    #[error("the nearest rule of yours is {rule}, and {why}")]
    Rule {
        /// The rule, in short.
        rule: String,
        /// What it does not allow; nothing that was asked for is repeated.
        why: String,
    },
}

/// Programs that a refusal lists at most.
const LISTED: usize = 10;

/// Whether one of `rules` allows it; or why the one that comes nearest does not.
pub(crate) fn check(rules: &[ProgramRule], wanted: &Invocation<'_>) -> Result<(), NotAllowed> {
    let mut nearest: Option<(usize, NotAllowed)> = None;
    for rule in rules.iter().filter(|rule| rule.is_about(wanted.argv)) {
        let Err((near, why)) = rule.check(wanted) else { return Ok(()) };
        if nearest.as_ref().is_none_or(|(other, _)| near > *other) {
            nearest = Some((near, NotAllowed::Rule { rule: rule.to_string(), why }));
        }
    }
    Err(nearest.map_or_else(|| NotAllowed::Program(listed(rules)), |(_, why)| why))
}

fn listed(rules: &[ProgramRule]) -> String {
    let mut names: Vec<_> = rules.iter().map(|rule| &*rule.path).collect();
    names.sort_unstable();
    names.dedup();
    let more = if names.len() > LISTED { " and others" } else { "" };
    names.truncate(LISTED);
    format!("{}{more}", names.join(", "))
}

impl ProgramRule {
    /// Whether it is about this program, whatever the rest.
    pub(crate) fn is_about(&self, argv: &[String]) -> bool {
        argv.first().is_some_and(|program| *program == self.path)
    }

    /// How near it comes, and what is in the way.
    fn check(&self, wanted: &Invocation<'_>) -> Result<(), (usize, String)> {
        let arguments = wanted.argv.get(1..).unwrap_or_default();
        let mut patterns = self.args.iter();
        for (n, argument) in arguments.iter().enumerate() {
            match patterns.next() {
                Some(Pattern::Rest) => break,
                Some(Pattern::One(pattern)) if fits(pattern, argument) => {}
                Some(Pattern::One(_)) => return Err((n, format!("argument {} is another", n + 1))),
                None => return Err((n, format!("it allows {n} arguments"))),
            }
        }
        let fitting = arguments.len();
        if matches!(patterns.next(), Some(Pattern::One(_))) {
            return Err((fitting, format!("it wants more than {fitting} arguments")));
        }
        let variables = wanted.env.unwrap_or_default().iter();
        let mut names = variables.map(|variable| variable.split('=').next().unwrap_or_default());
        // An empty environment is one that was set, too.
        let no_env = wanted.env.is_some() && self.env == Choice::None;
        let no = |what: &str| Err((fitting + 1, format!("it does not allow {what}")));
        match () {
            () if no_env => no("an environment"),
            () if !names.all(|name| self.env.allows(name)) => no("one of the variables"),
            () if !wanted.cwd.is_none_or(|cwd| self.cwd.allows(cwd)) => no("this directory"),
            () if !wanted.user.is_none_or(|user| self.user.allows(user)) => no("this user"),
            () if wanted.stdin && !self.stdin => no("input"),
            () if wanted.pty && !self.pty => no("a terminal"),
            () => Ok(()),
        }
    }
}

/// Whether an argument is as the pattern says. A hyphen in front stands for itself alone.
fn fits(pattern: &glob::Pattern, argument: &str) -> bool {
    (!argument.starts_with('-') || pattern.as_str().starts_with('-')) && pattern.matches(argument)
}

impl Choice {
    fn allows(&self, what: &str) -> bool {
        match self {
            Self::None => false,
            Self::Any => true,
            Self::These(these) => these.iter().any(|this| this == what),
        }
    }
}

impl From<ChoiceText> for Choice {
    fn from(text: ChoiceText) -> Self {
        match text {
            ChoiceText::Any(true) => Self::Any,
            ChoiceText::Any(false) => Self::None,
            ChoiceText::These(these) => Self::These(these),
        }
    }
}

impl fmt::Display for ProgramRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}", self.path)?;
        for pattern in &self.args {
            match pattern {
                Pattern::One(pattern) => write!(f, " {pattern}")?,
                Pattern::Rest => write!(f, " {REST}")?,
            }
        }
        f.write_str("\"")
    }
}

fn program<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let path = String::deserialize(deserializer)?;
    let plain = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
    if !plain || path.split('/').skip(1).any(|part| ["", ".", ".."].contains(&part)) {
        return Err(de::Error::custom(format_args!(
            "{path:?} is no program's absolute path, such as /usr/bin/systemctl"
        )));
    }
    Ok(path)
}

fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Pattern>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let last = texts.len().saturating_sub(1);
    let parse = |(n, text): (usize, &String)| match &**text {
        REST if n == last => Ok(Pattern::Rest),
        REST => Err(de::Error::custom("`**` stands for the rest, so nothing comes behind it")),
        text => glob::Pattern::new(text)
            .map(Pattern::One)
            .map_err(|e| de::Error::custom(format_args!("`{text}`: {}", e.msg))),
    };
    texts.iter().enumerate().map(parse).collect()
}

pub(super) fn rules<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<ProgramRule>>, D::Error> {
    let rules = Vec::deserialize(deserializer)?;
    if rules.is_empty() {
        return Err(de::Error::custom("names no program; leave the key out for all of them"));
    }
    Ok(Some(rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<ProgramRule>, toml::de::Error> {
        #[derive(Deserialize)]
        struct Table {
            #[serde(deserialize_with = "rules")]
            programs: Option<Vec<ProgramRule>>,
        }
        toml::from_str::<Table>(text).map(|table| table.programs.unwrap())
    }

    fn run(rules: &[ProgramRule], command: &str) -> Result<(), String> {
        let argv: Vec<_> = command.split(' ').map(str::to_owned).collect();
        let wanted =
            Invocation { argv: &argv, env: None, cwd: None, user: None, stdin: false, pty: false };
        check(rules, &wanted).map_err(|why| why.to_string())
    }

    #[test]
    fn arguments_are_matched_one_by_one() {
        let rules = parse(
            r#"programs = [
                { path = "/usr/bin/systemctl", args = ["status", "*"] },
                { path = "/usr/bin/systemctl", args = ["restart", "web-[0-9].service"] },
                { path = "/bin/true" },
                { path = "/bin/ls", args = ["-l*", "/srv/*", "**"] },
            ]"#,
        )
        .unwrap();
        for good in [
            "/usr/bin/systemctl status nginx",
            "/usr/bin/systemctl status a/b",
            "/usr/bin/systemctl restart web-1.service",
            "/bin/true",
            "/bin/ls -la /srv/x",
            "/bin/ls -l /srv/x/y --all --whatever /",
        ] {
            run(&rules, good).unwrap();
        }
        for (bad, why) in [
            ("/usr/bin/systemctl status", "\"/usr/bin/systemctl status *\", and it wants more"),
            ("/usr/bin/systemctl status a b", "\"/usr/bin/systemctl status *\", and it allows 2"),
            ("/usr/bin/systemctl status -Hroot@host", "argument 2 is another"),
            ("/usr/bin/systemctl restart web-12.service", "restart web-[0-9].service\", and arg"),
            ("/bin/true x", "it allows 0 arguments"),
            ("/bin/ls -a /srv/x", "argument 1 is another"),
            ("/bin/sh -c id", "name /bin/ls, /bin/true, /usr/bin/systemctl"),
            ("systemctl status x", "by exactly this path"),
            ("/usr/bin/../bin/systemctl status x", "by exactly this path"),
            ("/usr/bin//systemctl status x", "by exactly this path"),
        ] {
            let said = run(&rules, bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn all_else_is_off_unless_the_rule_says_so() {
        let off = parse(r#"programs = [{ path = "/a" }]"#).unwrap();
        let on = parse(
            r#"programs = [{ path = "/a", env = ["LANG"], cwd = true, user = ["www", "33"], stdin = true, pty = true }]"#,
        )
        .unwrap();
        let (argv, lang) = (["/a".to_owned()], ["LANG=C".to_owned()]);
        let (both, none) = (["LANG=C".to_owned(), "LD_PRELOAD=/x".to_owned()], []);
        let plain =
            Invocation { argv: &argv, env: None, cwd: None, user: None, stdin: false, pty: false };
        check(&off, &plain).unwrap();
        for wanted in [
            Invocation { env: Some(&lang), ..plain },
            Invocation { env: Some(&none), ..plain },
            Invocation { cwd: Some("/tmp"), ..plain },
            Invocation { user: Some("www"), ..plain },
            Invocation { stdin: true, ..plain },
            Invocation { pty: true, ..plain },
        ] {
            check(&off, &wanted).unwrap_err();
            check(&on, &wanted).unwrap();
        }
        let error = check(&on, &Invocation { env: Some(&both), ..plain }).unwrap_err().to_string();
        assert!(error.contains("one of the variables") && !error.contains("LD_PRELOAD"), "{error}");
        check(&on, &Invocation { user: Some("root"), ..plain }).unwrap_err();
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for (text, cause) in [
            ("programs = []", "names no program"),
            ("programs = [{ path = \"sh\" }]", "is no program's absolute path"),
            ("programs = [{ path = \"/bin/../sh\" }]", "is no program's absolute path"),
            ("programs = [{ path = \"/\" }]", "is no program's absolute path"),
            ("programs = [{ path = \"/a\", args = [\"**\", \"b\"] }]", "stands for the rest"),
            ("programs = [{ path = \"/a\", args = [\"[\"] }]", "`[`: "),
            ("programs = [{ path = \"/a\", env = \"LANG\" }]", "a list of what is allowed"),
            ("programs = [{ path = \"/a\", shell = true }]", "unknown field `shell`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }
}
