//! The files that the page is made of: read once, served by name, and nothing else of the disk.
//!
//! They are the same for every cluster and say nothing of one, so they need no key; what the page shows it asks for like
//! anybody else. The policy that goes along lets the page load and run what comes from here, and send to nowhere else.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Where files are, but for the document, which is at "/".
pub(crate) const PREFIX: &str = "/page/";
const DOCUMENT: &str = "index.html";
/// No markup is made of text either (`require-trusted-types-for`): names of tasks are text of who knows whom.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// For every answer of the service.
pub(crate) const ALWAYS: [(HeaderName, HeaderValue); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Whether this is one of the page's files, if it is anything.
pub(crate) fn is_public(method: &Method, path: &str) -> bool {
    (method == Method::GET || method == Method::HEAD) && (path == "/" || path.starts_with(PREFIX))
}

#[derive(Debug)]
struct File {
    content_type: &'static str,
    body: Bytes,
    tag: HeaderValue,
}

/// The files by name.
#[derive(Debug, Default)]
pub(crate) struct Page {
    files: BTreeMap<String, File>,
}

impl Page {
    /// # Errors
    /// The directory can't be read.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let (Some(name), Some(content_type)) = (path.file_name().and_then(|name| name.to_str()), type_of(&path))
            else {
                continue;
            };
            let body = Bytes::from(fs::read(&path)?);
            let digest = Sha256::digest(&body);
            let digits: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            let tag = HeaderValue::try_from(format!("\"{digits}\"")).expect("digits");
            files.insert(
                name.to_owned(),
                File {
                    content_type,
                    body,
                    tag,
                },
            );
        }
        Ok(Self { files })
    }

    /// The document, or what it asks for. `known`: the tag of what the browser has already.
    pub fn answer(&self, name: Option<&str>, known: Option<&HeaderValue>) -> Response {
        let Some(file) = self.files.get(name.unwrap_or(DOCUMENT)) else {
            return (StatusCode::NOT_FOUND, "The page has no such file.").into_response();
        };
        let mut response = if known == Some(&file.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, file.content_type)], file.body.clone()).into_response()
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        // Another version of the service may be there the next time.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::ETAG, file.tag.clone());
        headers.insert(
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        );
        response
    }
}

fn type_of(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "html" => Some("text/html; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_served_by_name_and_nothing_else_is() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in [
            ("index.html", "<p>"),
            ("main.js", "1"),
            ("notes.txt", "ours"),
            ("x.py", ""),
        ] {
            fs::write(dir.path().join(name), text).expect("written");
        }
        let page = Page::read(dir.path()).expect("read");
        let document = page.answer(None, None);
        assert_eq!(document.status(), StatusCode::OK);
        assert_eq!(document.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(document.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        let tag = document.headers()[header::ETAG].clone();
        assert_eq!(page.answer(None, Some(&tag)).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(page.answer(Some("main.js"), Some(&tag)).status(), StatusCode::OK);
        for name in ["notes.txt", "x.py", "../index.html", "", ".", "/etc/passwd"] {
            assert_eq!(page.answer(Some(name), None).status(), StatusCode::NOT_FOUND, "{name}");
        }
        assert!(Page::read(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn only_files_are_for_everybody() {
        assert!(is_public(&Method::GET, "/"));
        assert!(is_public(&Method::GET, "/page/main.js"));
        assert!(!is_public(&Method::POST, "/"));
        assert!(!is_public(&Method::POST, "/page/session"));
        assert!(!is_public(&Method::GET, "/api/version"));
        assert!(!is_public(&Method::GET, "/pages"));
    }
}
