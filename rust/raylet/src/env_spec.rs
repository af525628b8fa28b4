//! What a runtime environment consists of, and what workers in it get besides what their driver has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::DriverConfig;

/// Where a session keeps what environments are made of.
const STORE: &str = "runtime_resources";
/// Says in a virtual environment's directory that it is complete, and what belongs on `sys.path`.
const READY_FILE: &str = "ready.json";
/// What a directory is called that travels as a package: between the two stands what its content is called.
const PACKAGE: (&str, &str) = ("gcs://_ray_pkg_", ".zip");
/// Tells workers their environment.
const VARIABLE: &str = "RAY_RS_RUNTIME_ENV";

/// The JSON that `python/ray_rs/_environments.py` writes. Fields that mean nothing here are left to workers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct EnvSpec {
    pub env_vars: BTreeMap<String, String>,
    /// A package.
    pub working_dir: Option<String>,
    /// Packages, each an entry for `sys.path`.
    pub py_modules: Vec<String>,
    /// Name of the virtual environment, in the session's store; empty: none is asked for.
    #[serde(rename = "_venv")]
    pub venv: String,
    /// A command in front of the zygote's arguments, words parted by spaces.
    pub py_executable: Option<String>,
}

/// A virtual environment that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Venv {
    dir: PathBuf,
    path: Vec<String>,
}

impl EnvSpec {
    /// # Errors
    /// With what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let spec: Self = serde_json::from_str(text)
            .map_err(|error| format!("the runtime environment {text:?} is not understood: {error}"))?;
        let wrong = spec.packages().find(|package| content_of(package).is_none());
        match wrong {
            Some(package) => Err(format!(
                "the runtime environment names {package:?}, which is no package"
            )),
            None => Ok(spec),
        }
    }

    fn packages(&self) -> impl Iterator<Item = &String> {
        self.working_dir.iter().chain(&self.py_modules)
    }

    /// Where the node has what its packages hold, once they are unpacked.
    pub fn directories(&self, session_dir: &Path) -> Vec<PathBuf> {
        let store = session_dir.join(STORE);
        let contents = self.packages().filter_map(|package| content_of(package));
        contents.map(|content| store.join(content)).collect()
    }

    /// Whether the node has all of them.
    pub fn has_directories(&self, session_dir: &Path) -> bool {
        self.directories(session_dir).iter().all(|directory| directory.is_dir())
    }

    pub fn venv_dir(&self, session_dir: &Path) -> Option<PathBuf> {
        // A name, not a path that leads elsewhere.
        let is_name = !self.venv.is_empty() && !self.venv.contains(['/', '.']);
        is_name.then(|| session_dir.join(STORE).join(&self.venv))
    }

    /// `base` with what the environment adds.
    pub fn applied(&self, text: &str, base: &DriverConfig, session_dir: &Path, venv: Option<&Venv>) -> DriverConfig {
        let mut config = base.clone();
        let directories = self.directories(session_dir).into_iter();
        let mut first: Vec<String> = directories.map(|path| path.to_string_lossy().into_owned()).collect();
        if self.working_dir.is_some() {
            config.cwd.clone_from(&first[0]);
        }
        if let Some(venv) = venv {
            first.extend_from_slice(&venv.path);
            let bin = venv.dir.join("bin");
            config.executable = bin.join("python").to_string_lossy().into_owned();
            config
                .env
                .insert("VIRTUAL_ENV".to_owned(), venv.dir.to_string_lossy().into_owned());
            let path = known(&base.env, "PATH").unwrap_or_default();
            config
                .env
                .insert("PATH".to_owned(), format!("{}:{path}", bin.display()));
        }
        if let Some(command) = &self.py_executable {
            let mut words = command.split_whitespace().map(str::to_owned);
            config.executable = words.next().unwrap_or_default();
            config.executable_args = words.collect();
        }
        for (name, value) in &self.env_vars {
            let value = expanded(value, |name| known(&config.env, name));
            config.env.insert(name.clone(), value);
        }
        if !text.is_empty() {
            config.env.insert(VARIABLE.to_owned(), text.to_owned());
        }
        config.sys_path.retain(|entry| !first.contains(entry));
        first.append(&mut config.sys_path);
        config.sys_path = first;
        config
    }
}

impl Venv {
    /// `None`: it is not there, or not complete.
    pub fn find(dir: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct Ready {
            path: Vec<String>,
        }
        let text = std::fs::read(dir.join(READY_FILE)).ok()?;
        let Ready { path } = serde_json::from_slice(&text).ok()?;
        Some(Self {
            dir: dir.to_owned(),
            path,
        })
    }
}

/// What a package's content is called: a hash, so that it leads nowhere else.
fn content_of(package: &str) -> Option<&str> {
    let content = package.strip_prefix(PACKAGE.0)?.strip_suffix(PACKAGE.1)?;
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (content.len() == 32 && content.bytes().all(is_digit)).then_some(content)
}

/// As a process of the job's would know it.
fn known(env: &BTreeMap<String, String>, name: &str) -> Option<String> {
    env.get(name).cloned().or_else(|| std::env::var(name).ok())
}

/// `${NAME}` and `$NAME` stand for what NAME is; what is not known stays as it is written.
fn expanded(text: &str, known: impl Fn(&str) -> Option<String>) -> String {
    let mut made = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        made.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, length) = match after.strip_prefix('{') {
            Some(inner) => match inner.find('}') {
                Some(end) => (&inner[..end], end + 2),
                None => ("", 0),
            },
            None => {
                let end = after
                    .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
                    .unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match known(name).filter(|_| !name.is_empty()) {
            Some(value) => made.push_str(&value),
            None => made.push_str(&rest[at..=at + length]),
        }
        rest = &after[length..];
    }
    made.push_str(rest);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_once() {
        let known = |name: &str| match name {
            "A" => Some("$B".to_owned()),
            "LONG_1" => Some("x".to_owned()),
            _ => None,
        };
        for (text, wanted) in [
            ("plain", "plain"),
            ("${A}:/more", "$B:/more"),
            ("$A/$LONG_1.", "$B/x."),
            ("$UNKNOWN ${UNKNOWN} $", "$UNKNOWN ${UNKNOWN} $"),
            ("${open", "${open"),
            ("$$A", "$$B"),
            ("${}é$", "${}é$"),
        ] {
            assert_eq!(expanded(text, known), wanted);
        }
    }

    #[test]
    fn an_environment_is_laid_over_its_driver() {
        let (w, m) = ("0123456789abcdef0123456789abcdef", "ffffffffffffffffffffffffffffffff");
        let text = format!(
            r#"{{"env_vars":{{"BOTH":"${{BOTH}}+"}},"working_dir":"gcs://_ray_pkg_{w}.zip","py_modules":["gcs://_ray_pkg_{m}.zip"],
            "pip":["x"],"_venv":"pip-1"}}"#
        );
        let (w, m) = (format!("/s/runtime_resources/{w}"), format!("/s/runtime_resources/{m}"));
        let spec = EnvSpec::parse(&text).expect("good");
        assert!(!spec.has_directories(Path::new("/s")));
        let base = DriverConfig {
            sys_path: vec!["/a".to_owned(), m.clone()],
            cwd: "/c".to_owned(),
            env: BTreeMap::from([
                ("BOTH".to_owned(), "b".to_owned()),
                ("PATH".to_owned(), "/bin".to_owned()),
            ]),
            ..DriverConfig::default()
        };
        let dir = spec.venv_dir(Path::new("/s")).expect("named");
        assert_eq!(dir, Path::new("/s/runtime_resources/pip-1"));
        let venv = Venv {
            dir,
            path: vec!["/v".to_owned()],
        };
        let config = spec.applied(&text, &base, Path::new("/s"), Some(&venv));
        assert_eq!(config.sys_path, [w.as_str(), &m, "/v", "/a"]);
        assert_eq!((config.cwd.as_str(), config.env["BOTH"].as_str()), (w.as_str(), "b+"));
        assert_eq!(config.executable, "/s/runtime_resources/pip-1/bin/python");
        assert_eq!(config.env["PATH"], "/s/runtime_resources/pip-1/bin:/bin");
        assert_eq!(config.env[VARIABLE], text);
        let none = EnvSpec::parse("").expect("none");
        assert_eq!(none.applied("", &base, Path::new("/s"), None), base);
        assert!(none.has_directories(Path::new("/s")));
        for wrong in [
            "/etc",
            "gcs://../../etc.zip",
            "gcs://_ray_pkg_../../../etc.zip",
            "gcs://_ray_pkg_0123.zip",
        ] {
            let text = format!(r#"{{"working_dir":"{wrong}"}}"#);
            assert!(
                EnvSpec::parse(&text).is_err_and(|reason| reason.contains("no package")),
                "{wrong}"
            );
        }
        assert!(EnvSpec::parse("[1]").is_err());
        let elsewhere = EnvSpec {
            venv: "../x".to_owned(),
            ..EnvSpec::default()
        };
        assert_eq!(elsewhere.venv_dir(Path::new("/s")), None);
    }
}
