//! A provider that runs what the user says: `ssh`, `sbatch`, `kubectl` or anything else.
//!
//! Words in braces stand for what the node is to be: `{instance}`, `{node_type}`, `{address}`, `{token_file}`, `{num_cpus}`,
//! `{num_gpus}`, `{resources}`, `{labels}`, and `{start}`, the whole command that makes a machine join. The same come as
//! variables of the environment, `RAY_RS_INSTANCE` and so on. In a text for the shell they are quoted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ray_rs_types::resources::{CPU, GPU, OBJECT_STORE_MEMORY};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::provider::{NodeProvider, Order, Outcome};

/// What a command printed is told as far as this.
const TOLD_BYTES: usize = 1000;
/// A command that ends a node has so long for it.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A command as the user gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// For `/bin/sh -c`.
    Shell(String),
    Words(Vec<String>),
}

/// See the module's description.
#[derive(Debug)]
pub struct CommandProvider {
    pub start: Template,
    /// None: nodes end by themselves, once they have left the cluster.
    pub end: Option<Template>,
    /// A command that starts a node has so long for it.
    pub start_limit: Duration,
    /// What commands print goes to files there.
    pub log_dir: PathBuf,
}

impl NodeProvider for CommandProvider {
    fn start(&self, order: Order) -> Outcome<'_> {
        Box::pin(async move {
            let words = words_of(&order);
            self.run("start", &self.start, &order.instance, &words, self.start_limit)
                .await
        })
    }

    fn end(&self, instance: String) -> Outcome<'_> {
        Box::pin(async move {
            let Some(end) = &self.end else { return Ok(()) };
            let words = BTreeMap::from([("instance", instance.clone())]);
            self.run("end", end, &instance, &words, END_LIMIT).await
        })
    }
}

impl CommandProvider {
    async fn run(
        &self,
        what: &str,
        template: &Template,
        instance: &str,
        words: &BTreeMap<&'static str, String>,
        limit: Duration,
    ) -> Result<(), String> {
        let log_path = self.log_dir.join(format!("{what}-{instance}.log"));
        // A process that it leaves behind may keep the file for ever; a pipe would keep us.
        let log = open_log(&log_path).map_err(|error| format!("{}: {error}", log_path.display()))?;
        let mut command = command_of(template, words);
        for (name, value) in words {
            command.env(format!("RAY_RS_{}", name.to_uppercase()), value);
        }
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        let both = log.try_clone().map_err(|error| error.to_string())?;
        let spawned = command.stdout(both).stderr(log).spawn();
        let mut child = spawned.map_err(|error| format!("cannot run the {what} command: {error}"))?;
        let group = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let ended = tokio::time::timeout(limit, child.wait()).await;
        let status = match ended {
            Ok(status) => status.map_err(|error| error.to_string())?,
            Err(_) => {
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let _ = child.wait().await;
                return Err(format!(
                    "the {what} command did not end within {} s and was killed",
                    limit.as_secs()
                ));
            }
        };
        match status.success() {
            true => Ok(()),
            false => Err(format!(
                "the {what} command failed ({status}): {}",
                last_words(&log_path)
            )),
        }
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn last_words(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(TOLD_BYTES)..]).into_owned();
    match text.trim() {
        "" => "it printed nothing".to_owned(),
        text => text.to_owned(),
    }
}

fn command_of(template: &Template, words: &BTreeMap<&'static str, String>) -> Command {
    match template {
        Template::Shell(text) => {
            let mut command = Command::new("/bin/sh");
            // `{start}` is a command already.
            let quote = |name: &str, value: &str| {
                if name == "start" {
                    value.to_owned()
                } else {
                    quoted(value)
                }
            };
            command.arg("-c").arg(filled(text, words, quote));
            command
        }
        Template::Words(template) => {
            let plain = |_: &str, value: &str| value.to_owned();
            let mut filled = template.iter().map(|word| filled(word, words, plain));
            let mut command = Command::new(filled.next().unwrap_or_default());
            command.args(filled);
            command
        }
    }
}

/// Other braces are the user's own, as in `${HOME}`.
fn filled(text: &str, words: &BTreeMap<&'static str, String>, quote: impl Fn(&str, &str) -> String) -> String {
    let mut filled = text.to_owned();
    for (name, value) in words {
        filled = filled.replace(&format!("{{{name}}}"), &quote(name, value));
    }
    filled
}

fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:=,@%+".contains(letter);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// What stands for what.
fn words_of(order: &Order) -> BTreeMap<&'static str, String> {
    let amount = |name: &str| order.resources.get(name).copied().unwrap_or(0.0);
    let pairs = |pairs: Vec<String>| pairs.join(",");
    let is_named_apart = |name: &str| [CPU, GPU, OBJECT_STORE_MEMORY].contains(&name);
    let resources = order.resources.iter().filter(|(name, _)| !is_named_apart(name));
    let resources = pairs(resources.map(|(name, amount)| format!("{name}={amount}")).collect());
    let labels = pairs(
        order
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
    );
    let address = order.cluster.address.to_string();
    let mut start = format!(
        "ray_rs start --address={address} --node-name={} --num-cpus={} --num-gpus={} --labels={}",
        order.instance,
        amount(CPU),
        amount(GPU),
        quoted(&labels),
    );
    if !resources.is_empty() {
        let _ = write!(start, " --resources={}", quoted(&resources));
    }
    if amount(OBJECT_STORE_MEMORY) > 0.0 {
        let _ = write!(start, " --object-store-memory={}", amount(OBJECT_STORE_MEMORY));
    }
    BTreeMap::from([
        ("instance", order.instance.clone()),
        ("node_type", order.node_type.clone()),
        ("address", address),
        ("token_file", order.cluster.token_path.display().to_string()),
        ("num_cpus", amount(CPU).to_string()),
        ("num_gpus", amount(GPU).to_string()),
        ("resources", resources),
        ("labels", labels),
        ("start", start),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoscaler::provider::ClusterPlace;

    fn order() -> Order {
        Order {
            instance: "gpu-ab-1".to_owned(),
            node_type: "my gpu".to_owned(),
            resources: BTreeMap::from([
                ("CPU".to_owned(), 8.0),
                ("GPU".to_owned(), 1.0),
                ("special".to_owned(), 0.5),
            ]),
            labels: BTreeMap::from([("zone".to_owned(), "it's a".to_owned())]),
            cluster: ClusterPlace {
                address: "10.0.0.1:6379".parse().expect("an address"),
                token_path: "/x/token".into(),
            },
        }
    }

    #[test]
    fn words_in_braces_are_filled_in_and_others_are_left_alone() {
        let words = words_of(&order());
        let text = "sbatch -c {num_cpus} --job-name={instance} -C {node_type} ${HOME} {else} --wrap '{start}'";
        let quote = |name: &str, value: &str| if name == "start" { "S".to_owned() } else { quoted(value) };
        assert_eq!(
            filled(text, &words, quote),
            "sbatch -c 8 --job-name=gpu-ab-1 -C 'my gpu' ${HOME} {else} --wrap 'S'"
        );
        assert_eq!(
            words["start"],
            r"ray_rs start --address=10.0.0.1:6379 --node-name=gpu-ab-1 --num-cpus=8 --num-gpus=1 --labels='zone=it'\''s a' --resources=special=0.5"
        );
    }

    fn provider(start: &str, end: Option<&str>, log_dir: &Path) -> CommandProvider {
        CommandProvider {
            start: Template::Shell(start.to_owned()),
            end: end.map(|end| Template::Words(vec!["/bin/sh".to_owned(), "-c".to_owned(), end.to_owned()])),
            start_limit: Duration::from_millis(300),
            log_dir: log_dir.to_owned(),
        }
    }

    #[tokio::test]
    async fn commands_are_run_and_their_failures_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = dir.path().join("gpu-ab-1");
        let touches = provider(
            &format!("touch {}/{{instance}}", dir.path().display()),
            Some(&format!("rm {}/$RAY_RS_INSTANCE", dir.path().display())),
            dir.path(),
        );
        assert_eq!(touches.start(order()).await, Ok(()));
        assert!(made.exists());
        assert_eq!(touches.end("gpu-ab-1".to_owned()).await, Ok(()));
        assert!(!made.exists());
        let fails = provider("echo no quota >&2; exit 3", None, dir.path());
        let why = fails.start(order()).await.expect_err("it fails");
        assert!(why.contains("exit status: 3") && why.contains("no quota"), "{why}");
        assert_eq!(
            fails.end("gpu-ab-1".to_owned()).await,
            Ok(()),
            "there is nothing to be done"
        );
        let hangs = provider("sleep 60", None, dir.path());
        let why = hangs.start(order()).await.expect_err("it takes too long");
        assert!(why.contains("did not end"), "{why}");
        // What it leaves behind holds nobody up.
        let leaves = provider("sleep 2 &", None, dir.path());
        assert_eq!(leaves.start(order()).await, Ok(()));
        let is_not_there = CommandProvider {
            start: Template::Words(vec!["/no/such/program".to_owned()]),
            ..provider("", None, dir.path())
        };
        let why = is_not_there.start(order()).await.expect_err("there is none");
        assert!(why.contains("cannot run the start command"), "{why}");
    }
}
