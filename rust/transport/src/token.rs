//! The secret that a session's processes share, kept in a file that only their user can read.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Length of a token in bytes.
pub const TOKEN_BYTES: usize = 32;

/// In front of a token whose cluster speaks [`tls`](crate::tls): whoever has the token knows, and cannot be talked out of it.
const TLS_MARK: &str = "tls-";

/// The secret itself. It has no `Display`, and its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: [u8; TOKEN_BYTES],
    with_tls: bool,
}

impl Token {
    /// A fresh random token.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self {
            secret: bytes,
            with_tls: false,
        })
    }

    /// The same secret for a cluster whose connections between machines are encrypted.
    pub fn with_tls(mut self) -> Self {
        self.with_tls = true;
        self
    }

    /// Connections between machines are encrypted.
    pub fn wants_tls(&self) -> bool {
        self.with_tls
    }

    /// Makes a random token and writes it (in hex) to the new file `path`, mode 0600.
    ///
    /// # Errors
    /// When the file exists already or cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let token = Self::random()?;
        token.write_new(path)?;
        Ok(token)
    }

    /// Writes it (in hex) to the new file `path`, mode 0600: a node that joins a cluster keeps the cluster's.
    ///
    /// # Errors
    /// When the file exists already or cannot be written.
    pub fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut text = String::with_capacity(TLS_MARK.len() + 2 * TOKEN_BYTES + 1);
        if self.with_tls {
            text.push_str(TLS_MARK);
        }
        for byte in self.secret {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push('\n');
        file.write_all(text.as_bytes())
    }

    /// Reads the token that [`Token::create`] wrote.
    ///
    /// # Errors
    /// `PermissionDenied` when the file belongs to somebody else or others may touch it; `InvalidData` when it holds no
    /// token.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).open(path)?;
        let meta = file.metadata()?;
        if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} must belong to you and have mode 0600", path.display()),
            ));
        }
        let mut text = String::new();
        file.take(4096).read_to_string(&mut text)?;
        Self::parse(text.trim()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} does not hold a session token", path.display()),
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (hex, with_tls) = match text.strip_prefix(TLS_MARK) {
            Some(hex) => (hex, true),
            None => (text, false),
        };
        if hex.len() != 2 * TOKEN_BYTES || !hex.bytes().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; TOKEN_BYTES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self {
            secret: bytes,
            with_tls,
        })
    }

    /// A key for another purpose, in hex: it follows from the token and the purpose, and tells neither the token nor the key
    /// of any other purpose.
    pub fn key_for(&self, purpose: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        mac.finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// For keying the MACs of the handshake, and for nothing else.
    pub(crate) fn secret(&self) -> &[u8; TOKEN_BYTES] {
        &self.secret
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_survives_its_file_and_stays_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        let token = Token::create(&path).expect("created");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(Token::read(&path).expect("read"), token);
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert!(Token::create(&path).is_err(), "an existing token is never replaced");
        let encrypted = dir.path().join("encrypted");
        token.clone().with_tls().write_new(&encrypted).expect("written");
        let read = Token::read(&encrypted).expect("read");
        assert!(read.wants_tls() && !token.wants_tls());
        assert_eq!(read.key_for("one"), token.key_for("one"), "the secret is the same");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
        assert_eq!(
            Token::read(&path).expect_err("open to others").kind(),
            io::ErrorKind::PermissionDenied
        );
    }

    #[test]
    fn keys_for_other_purposes_do_not_show_the_token() {
        let of = |byte| Token {
            secret: [byte; TOKEN_BYTES],
            with_tls: false,
        };
        let token = of(7);
        let key = token.key_for("one");
        assert_eq!(key.len(), 2 * TOKEN_BYTES);
        assert_eq!(key, of(7).key_for("one"));
        assert_ne!(key, token.key_for("two"));
        assert_ne!(key, of(8).key_for("one"));
        assert!(!key.contains("0707"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in ["", "00", "tls-", "tls-00", &"é".repeat(32), &"zz".repeat(32)] {
            let path = dir.path().join("token");
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("changed");
            assert_eq!(
                Token::read(&path).expect_err("no token").kind(),
                io::ErrorKind::InvalidData
            );
        }
    }
}
