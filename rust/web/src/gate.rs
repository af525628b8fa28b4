//! Who gets in.
//!
//! Requests show a key: `Authorization: Bearer KEY`, the same as `x-ray-authorization`, or in a cookie, as Ray's clients
//! do. It follows from the cluster's token ([`KEY_PURPOSE`]) but is not it, so that whoever reads along on an unencrypted link can't join
//! the cluster with what he reads.
//!
//! A page of another site that is open in somebody's browser must not reach a service on the loopback: browsers say in
//! `Origin` where a request comes from, which then has to be here; and a name that an attacker's DNS server points at
//! 127.0.0.1 shows in `Host`, where only numeric addresses, "localhost" and names that were configured are let in.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// For what the cluster's token gives the key.
pub const KEY_PURPOSE: &str = "ray_rs web key 1";
const COOKIE: &str = "ray-authentication-token";

/// What is asked of requests.
#[derive(Debug, Clone)]
pub struct Gate {
    pub key: Option<String>,
    pub hosts: Vec<String>,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    ForeignHost,
    ForeignPage,
    NoKey,
    WrongKey,
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Self::NoKey => StatusCode::UNAUTHORIZED,
            Self::ForeignHost | Self::ForeignPage | Self::WrongKey => StatusCode::FORBIDDEN,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::ForeignHost => {
                "This service is reached by an address, by localhost, or by a name in RAY_RS_WEB_HOSTS of the head's \
                 environment; the request's Host is none of them."
            }
            Self::ForeignPage => "Pages of other sites may not use this service.",
            Self::NoKey => {
                "Unauthorized: Missing authentication token. `ray_rs get-auth-token` prints the key of a cluster; \
                 send it as 'Authorization: Bearer KEY'."
            }
            Self::WrongKey => {
                "Forbidden: Invalid authentication token: it is not that of this cluster, which `ray_rs get-auth-token` prints."
            }
        }
    }
}

impl Gate {
    /// Whether a request with these headers gets in.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        if !self.knows(host) {
            return Err(Refusal::ForeignHost);
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let from = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            if from.is_none_or(|(_, from)| !from.eq_ignore_ascii_case(host)) {
                return Err(Refusal::ForeignPage);
            }
        }
        let Some(key) = &self.key else { return Ok(()) };
        let shown = shown_key(headers).ok_or(Refusal::NoKey)?;
        if same(shown, key) {
            Ok(())
        } else {
            Err(Refusal::WrongKey)
        }
    }

    fn knows(&self, host: &str) -> bool {
        let name = name_of(host);
        let is_numeric = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(name)
            .parse::<std::net::IpAddr>()
            .is_ok();
        is_numeric
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

fn shown_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    };
    let cookie = || {
        let cookies = headers.get_all(header::COOKIE).iter();
        let pairs = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'));
        pairs
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(name, _)| *name == COOKIE)
            .map(|(_, value)| value)
    };
    bearer("authorization")
        .or_else(|| bearer("x-ray-authorization"))
        .or_else(cookie)
}

/// Compares digests: how long that takes says nothing about the key.
fn same(shown: &str, key: &str) -> bool {
    Sha256::digest(shown) == Sha256::digest(key)
}

/// The same as a layer of the service.
pub(crate) async fn guard(State(gate): State<std::sync::Arc<Gate>>, request: Request, next: Next) -> Response {
    match gate.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => (refusal.status(), refusal.text()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).expect("a header");
        pairs
            .iter()
            .map(|(name, text)| ((*name).parse().expect("a name"), value(text)))
            .collect()
    }

    fn gate() -> Gate {
        Gate {
            key: Some("secret".to_owned()),
            hosts: vec!["head.example".to_owned()],
        }
    }

    #[test]
    fn the_key_comes_in_three_ways() {
        let gate = gate();
        for pair in [
            ("authorization", "Bearer secret"),
            ("authorization", "bearer  secret"),
            ("x-ray-authorization", "Bearer secret"),
            ("cookie", "a=b; ray-authentication-token=secret; c=d"),
        ] {
            assert_eq!(
                gate.check(&headers(&[("host", "127.0.0.1:8265"), pair])),
                Ok(()),
                "{pair:?}"
            );
        }
        let refused = |pair| gate.check(&headers(&[("host", "127.0.0.1:8265"), pair]));
        assert_eq!(refused(("authorization", "Bearer secret1")), Err(Refusal::WrongKey));
        assert_eq!(refused(("authorization", "Bearer ")), Err(Refusal::WrongKey));
        assert_eq!(refused(("authorization", "secret")), Err(Refusal::NoKey));
        assert_eq!(refused(("authorization", "Basic secret")), Err(Refusal::NoKey));
        assert_eq!(
            refused(("cookie", "x-ray-authentication-token=secret")),
            Err(Refusal::NoKey)
        );
        let open = Gate {
            key: None,
            ..gate.clone()
        };
        assert_eq!(open.check(&headers(&[("host", "127.0.0.1:8265")])), Ok(()));
    }

    #[test]
    fn names_that_are_not_ours_are_refused() {
        let gate = Gate { key: None, ..gate() };
        for host in [
            "127.0.0.1",
            "127.0.0.1:8265",
            "[::1]:8265",
            "[::1]",
            "localhost:1",
            "LocalHost",
            "10.1.2.3:80",
            "head.example:8265",
        ] {
            assert_eq!(gate.check(&headers(&[("host", host)])), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8265",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            ":8265",
        ] {
            assert_eq!(
                gate.check(&headers(&[("host", host)])),
                Err(Refusal::ForeignHost),
                "{host}"
            );
        }
        assert_eq!(gate.check(&HeaderMap::new()), Err(Refusal::ForeignHost));
    }

    #[test]
    fn pages_of_other_sites_are_refused_with_the_key_as_well() {
        let gate = gate();
        let with = |origin| {
            gate.check(&headers(&[
                ("host", "127.0.0.1:8265"),
                ("authorization", "Bearer secret"),
                ("origin", origin),
            ]))
        };
        assert_eq!(with("http://127.0.0.1:8265"), Ok(()));
        for origin in [
            "http://evil.example",
            "null",
            "http://127.0.0.1:8266",
            "http://127.0.0.1",
            "",
        ] {
            assert_eq!(with(origin), Err(Refusal::ForeignPage), "{origin:?}");
        }
    }
}
