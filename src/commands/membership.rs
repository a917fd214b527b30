//! `init`, `invite`, `join`: how machines become members of a group.

use std::io::BufRead;
use std::time::Duration;

use super::joining::{self, Way};
use super::{authority, removal, say};
use crate::failure::printable;
use crate::mark;
use crate::net;
use crate::peers::options::{self, PORT};
use crate::peers::remembered;
use crate::problem::Problem;
use crate::size;
use crate::sys::process;
use crate::sys::state::StateDir;
use crate::trust::authority::{Authority, Uses};
use crate::trust::code::JoinCode;
use crate::trust::group::{self, Role};
use crate::trust::name::WantedName;
use crate::wire::target::Target;

/// Maximum bytes read from standard input; a longer text is not a join code.
const MAX_INPUT: u64 = 64 * 1024;

/// The default lifetime of a join code.
const DEFAULT_TTL: &str = "24h";

/// The longest name of a group, in bytes.
const LONGEST_GROUP: usize = 64;

/// Reads a group's name, which every member's terminal and log shows.
fn group_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > LONGEST_GROUP || text.chars().any(char::is_control) {
        return Err(format!("a group's name has 1 to {LONGEST_GROUP} bytes and no control characters"));
    }
    Ok(text.to_owned())
}

/// `laneway init`
#[derive(Debug, clap::Args)]
pub struct Init {
    /// The group's name, for display
    #[arg(long, value_name = "NAME", default_value = "lan", value_parser = group_name)]
    group: String,
    /// This machine's name in the group [default: the host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How long the join code is valid, such as 30m, 24h, 7d or never
    #[arg(long, value_name = "TIME", default_value = DEFAULT_TTL, value_parser = ttl)]
    ttl: Ttl,
}

/// `laneway invite`
#[derive(Debug, clap::Args)]
pub struct Invite {
    /// Admit machines as clients only: they use gateways but never become one
    #[arg(long)]
    client_only: bool,
    /// How many machines may join with the code: a number, or any
    #[arg(long, value_name = "N|any", default_value = "1", value_parser = uses)]
    uses: Uses,
    /// How long the join code is valid, such as 30m, 24h, 7d or never
    #[arg(long, value_name = "TIME", default_value = DEFAULT_TTL, value_parser = ttl)]
    ttl: Ttl,
    /// The name of the joining machine in the group; another one that joins first may still take it [default: its host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// `laneway join`
#[derive(Debug, clap::Args)]
pub struct Join {
    /// The join code, which starts with lw1; or - to read it from standard input, so that it appears neither in the shell's
    /// history nor in a list of processes
    #[arg(required = true, num_args = 1.., value_name = "CODE")]
    code: Vec<String>,
    /// The address of the machine that created the group, if discovery cannot find it
    #[arg(long, value_name = "HOST:PORT", value_parser = options::gateway)]
    gateway: Option<Target>,
    /// This machine's name in the group [default: the host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The UDP port of discovery
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT", default_value_t = PORT)]
    discovery_port: u16,
    /// An interface or local address to query on; repeatable [default: all except loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
}

/// The lifetime of a join code; `None` for one that does not expire.
#[derive(Clone, Copy, Debug)]
struct Ttl(Option<Duration>);

fn ttl(text: &str) -> Result<Ttl, String> {
    const LONGEST: Duration = Duration::from_secs(86_400 * 36_500);
    if text == "never" {
        return Ok(Ttl(None));
    }
    let time = size::time(text, None).map_err(|error| format!("{error}, or never"))?;
    match (Duration::from_secs(1)..=LONGEST).contains(&time) {
        true => Ok(Ttl(Some(Duration::from_secs(time.as_secs())))),
        false => Err("not a valid time: from 1s to 36500d, or never".into()),
    }
}

fn uses(text: &str) -> Result<Uses, String> {
    match text {
        "any" => Ok(Uses::Any),
        _ => match text.parse() {
            Ok(0) | Err(_) => Err("write a number of at least 1, or any".into()),
            Ok(number) => Ok(Uses::Times(number)),
        },
    }
}

impl Init {
    /// Creates the group, and prints the command that joins it.
    ///
    /// # Errors
    /// When this machine is in a group already, or the group cannot be saved.
    pub fn run(self, state: &StateDir) -> Result<(), Problem> {
        let name = WantedName::new(self.name, &net::host_name());
        let group = Authority::create(state, &self.group, name.name())?;
        let code = authority::load(state)?.invite(Role::Gateway, Uses::Any, self.ttl.0, None)?;
        say(format_args!("Created the group '{}'; this machine is '{}'.", group.name, group.node.name));
        say(format_args!(
            "Start this node with the server that the others should reach:\n\n    laneway up --server HOST:PORT{}\n",
            state.option()
        ));
        say("While it runs, run this on every other machine:\n");
        say(format_args!("    laneway join {code}\n"));
        say(format_args!("The code is {}.", validity(Uses::Any, Role::Gateway, None, self.ttl.0)));
        Ok(())
    }
}

impl Invite {
    /// Creates one more join code.
    ///
    /// # Errors
    /// When this machine does not hold the authority, the code cannot be saved, or the group has removed this machine.
    pub async fn run(self, state: &StateDir) -> Result<(), Problem> {
        let role = if self.client_only { Role::Client } else { Role::Gateway };
        if let (Some(name), Uses::Any | Uses::Times(2..)) = (&self.name, self.uses) {
            let name = printable(name);
            return Err(Problem::usage(format!(
                "--name {name} is one machine's name, so no second machine could join with the code"
            ))
            .hint(
                "leave out --uses, or make the code without --name: each machine then takes its host name",
            ));
        }
        let authority = authority::load(state)?;
        removal::refuse(state).await?;
        let good = validity(self.uses, role, self.name.as_deref(), self.ttl.0);
        let code = authority.invite(role, self.uses, self.ttl.0, self.name)?;
        say(format_args!("laneway join {code}"));
        // Comments for a shell that the output is piped to.
        say(format_args!("# The code is {good}."));
        say(format_args!(
            "# Run that line on the other machine while the node of this one runs: 'laneway up{}' with its options.",
            state.option()
        ));
        Ok(())
    }
}

impl Join {
    /// Joins the group.
    ///
    /// # Errors
    /// When no machine that can admit is found, or it refuses.
    pub async fn run(self, state: StateDir) -> Result<(), Problem> {
        let code = match self.code.as_slice() {
            [dash] if dash == "-" => read_code(std::io::stdin().lock())?,
            words => words.join(" ").parse()?,
        };
        super::check_lan(&self.lan)?;
        // Rules of transparent mode may be installed already. Where this process may not set marks, they exempt its user.
        let _ = mark::begin();
        if let Err(error) = group::refuse_second_group(&state) {
            return Err(removal::before_joining(&state).await.unwrap_or_else(|| error.into()));
        }
        let name = WantedName::new(self.name.clone(), &net::host_name());
        let way = match &self.gateway {
            Some(named) => Way::Named(named),
            None => Way::Lan { port: self.discovery_port, only: &self.lan },
        };
        let (signer, group) = joining::join(way, &code, &name, &state).await?;
        group::remember_membership(&state, &group)?;
        remembered::add(&state, signer);
        let role = match group.node.role {
            Role::Client => "it is a client only, and never a gateway",
            Role::Gateway => "it may be a gateway or a client",
        };
        say(format_args!("Joined the group '{}' as '{}': {role}.", group.name, group.node.name));
        if self.name.as_ref().is_some_and(|chosen| *chosen != group.node.name) {
            say(format_args!("The code names this machine: the name '{}' was not used.", name.name()));
        } else if is_numbered(&group.node.name, name.name()) {
            say(format_args!(
                "Another member already has the name '{0}'. If that is an earlier installation of this machine, remove it on the \
                 machine with the group's key: 'laneway members' shows the ID of '{0}', 'laneway revoke ID' removes it.",
                name.name()
            ));
        }
        let option = state.option();
        say(format_args!(
            "Start this node:\n\n    laneway up{option}\n\nWhile it runs, point the software of a shell to it:\n"
        ));
        match process::HAS_POSIX_SHELL {
            true => say(format_args!("    eval \"$(laneway env{option})\"")),
            false => say(format_args!("    laneway env{option} | Out-String | Invoke-Expression")),
        }
        Ok(())
    }
}

/// Whether the authority appended a number to the name, because another member has it.
fn is_numbered(name: &str, wanted: &str) -> bool {
    let number = name.strip_prefix(wanted).and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// Reads a join code from `input`: as many lines as it takes, so that neither a shell's history nor a list of processes shows
/// the code.
fn read_code(input: impl BufRead) -> Result<JoinCode, Problem> {
    let failed =
        |error: std::io::Error| Problem::new("cannot read the join code from standard input").because(error);
    let mut text = String::new();
    for line in input.take(MAX_INPUT).lines() {
        text.push_str(&line.map_err(failed)?);
        text.push('\n');
        // A terminal has no end: the code is complete as soon as it is valid.
        if let Ok(code) = text.parse() {
            return Ok(code);
        }
    }
    Ok(text.parse::<JoinCode>()?)
}

/// How many machines a code admits, as which kind of member and under which name, and for how long.
fn validity(uses: Uses, role: Role, name: Option<&str>, ttl: Option<Duration>) -> String {
    let machines = match uses {
        Uses::Times(1) => "one machine".to_owned(),
        Uses::Times(number) => format!("{number} machines"),
        Uses::Any => "any number of machines".to_owned(),
    };
    let role = match role {
        Role::Client => ", as a client only",
        Role::Gateway => "",
    };
    let time = match ttl.map(|ttl| ttl.as_secs()) {
        None => "until a member is removed".to_owned(),
        Some(seconds) => {
            let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
            // One day is 24 hours, as the option says it.
            let whole = |(unit, _): &(u64, &str)| seconds % unit == 0 && (*unit < 86_400 || seconds > 86_400);
            let (unit, name) = units.into_iter().find(whole).unwrap_or((1, "second"));
            let number = seconds / unit;
            format!("for {number} {name}{}", if number == 1 { "" } else { "s" })
        }
    };
    let name = name.map_or_else(String::new, |name| format!(", under the name '{name}'"));
    format!("good for {machines}{role}{name}, {time}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_on_standard_input_is_complete_without_the_end_of_the_input() {
        let code = JoinCode::new([7; 32], [8; 8], [9; 16], 0);
        let (start, end) = (&code.to_string()[..40], &code.to_string()[40..]);
        for text in [
            format!("{code}\n"),
            format!("laneway join {code}\n# The code is good for one machine, for 24 hours.\n"),
            format!("laneway join {start}\n   {end}"),
        ] {
            assert_eq!(read_code(text.as_bytes()).ok(), Some(code.clone()), "{text}");
        }
        /// Fails the test when more is read than the code.
        struct Terminal<'a>(&'a [u8]);
        impl std::io::Read for Terminal<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                assert!(!self.0.is_empty(), "it waits for more than the code");
                self.0.read(buffer)
            }
        }
        let line = format!("{code}\n");
        assert_eq!(read_code(std::io::BufReader::new(Terminal(line.as_bytes()))).ok(), Some(code));
        assert!(read_code(&b"hello"[..]).is_err());
        assert!(read_code(std::io::BufReader::new(std::io::repeat(b'x'))).is_err());
    }

    #[test]
    fn the_validity_of_a_code_is_said_in_the_units_of_its_option() {
        let said = |text: &str| validity(Uses::Any, Role::Gateway, None, ttl(text).unwrap().0);
        assert_eq!(said("24h"), "good for any number of machines, for 24 hours");
        assert_eq!(said("2d"), "good for any number of machines, for 2 days");
        assert_eq!(said("90m"), "good for any number of machines, for 90 minutes");
        assert_eq!(said("never"), "good for any number of machines, until a member is removed");
        let one = validity(Uses::Times(1), Role::Client, Some("kiosk"), ttl("1s").unwrap().0);
        assert_eq!(one, "good for one machine, as a client only, under the name 'kiosk', for 1 second");
    }

    #[test]
    fn only_a_number_that_the_authority_appended_means_that_the_name_was_taken() {
        assert!(is_numbered("laptop-2", "laptop") && is_numbered("laptop-12", "laptop"));
        assert!(!is_numbered("laptop", "laptop") && !is_numbered("kiosk-2", "laptop"));
    }
}
