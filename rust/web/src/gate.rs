//! Who gets in.
//!
//! Requests show a key: `Authorization: Bearer KEY`, the same as `x-ray-authorization`, or in a cookie, as Ray's clients
//! do. It follows from the cluster's token ([`KEY_PURPOSE`]) but is not it, so that whoever reads along on an unencrypted link can't join
//! the cluster with what he reads. The page's cookie has the port in its name: browsers send cookies to all ports of a
//! host, and there may be several clusters. The files that the page is made of say nothing of the cluster and need no key.
//!
//! A page of another site that is open in somebody's browser must not reach a service on the loopback: browsers say in
//! `Origin` where a request comes from, which then has to be here; and a name that an attacker's DNS server points at
//! 127.0.0.1 shows in `Host`, where only numeric addresses, "localhost" and names that were configured are let in. Where a
//! request has no `Origin` (images, scripts), browsers say in `Sec-Fetch-Site` how far the page is from here.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// For what the cluster's token gives the key.
pub const KEY_PURPOSE: &str = "ray_rs web key 1";
const COOKIE: &str = "ray-authentication-token";
const PAGE_COOKIE: &str = "ray_rs_page_";

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
        self.check_site(headers)?;
        if headers
            .get("sec-fetch-site")
            .is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
        {
            return Err(Refusal::ForeignPage);
        }
        let Some(key) = &self.key else { return Ok(()) };
        let shown = shown_keys(headers);
        if shown.is_empty() {
            Err(Refusal::NoKey)
        } else if shown.iter().any(|shown| same(shown, key)) {
            Ok(())
        } else {
            Err(Refusal::WrongKey)
        }
    }

    /// The same for what says nothing of the cluster, and may be followed to from anywhere.
    ///
    /// # Errors
    /// Why it does not get in.
    pub fn check_site(&self, headers: &HeaderMap) -> Result<(), Refusal> {
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
        Ok(())
    }

    /// What a browser that has shown the key keeps: no script can read it, and it goes along with requests of our own
    /// pages only. `None`: no key is asked for.
    pub fn cookie(&self, headers: &HeaderMap) -> Option<String> {
        let name = page_cookie(headers);
        let key = self.key.as_ref()?;
        Some(format!("{name}={key}; Path=/; HttpOnly; SameSite=Strict"))
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

/// Name of the cookie of the page under the address that was asked.
fn page_cookie(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let host = host.unwrap_or_default();
    let port = host.strip_prefix(name_of(host)).unwrap_or_default();
    format!("{PAGE_COOKIE}{}", port.trim_start_matches(':'))
}

/// What is shown in headers, of which one has to do; else in cookies, of which other clusters' may be among them.
fn shown_keys(headers: &HeaderMap) -> Vec<&str> {
    let bearer = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    };
    if let Some(shown) = bearer("authorization").or_else(|| bearer("x-ray-authorization")) {
        return vec![shown];
    }
    let of_page = page_cookie(headers);
    let cookies = headers.get_all(header::COOKIE).iter();
    cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE || *name == of_page)
        .map(|(_, value)| value)
        .collect()
}

/// Compares digests: how long that takes says nothing about the key.
fn same(shown: &str, key: &str) -> bool {
    Sha256::digest(shown) == Sha256::digest(key)
}

/// The same as a layer of the service.
pub(crate) async fn guard(State(gate): State<std::sync::Arc<Gate>>, request: Request, next: Next) -> Response {
    let checked = if crate::page::is_public(request.method(), request.uri().path()) {
        gate.check_site(request.headers())
    } else {
        gate.check(request.headers())
    };
    match checked {
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
    fn a_page_keeps_its_key_in_a_cookie_of_its_port() {
        let gate = gate();
        let asked = headers(&[("host", "127.0.0.1:8265")]);
        let cookie = gate.cookie(&asked).expect("there is a key");
        assert_eq!(cookie, "ray_rs_page_8265=secret; Path=/; HttpOnly; SameSite=Strict");
        let with = |host, cookie| gate.check(&headers(&[("host", host), ("cookie", cookie)]));
        assert_eq!(with("127.0.0.1:8265", "ray_rs_page_8265=secret"), Ok(()));
        assert_eq!(
            with("127.0.0.1:8265", "ray_rs_page_8266=other; ray_rs_page_8265=secret"),
            Ok(())
        );
        assert_eq!(with("127.0.0.1:8266", "ray_rs_page_8265=secret"), Err(Refusal::NoKey));
        assert_eq!(with("127.0.0.1:8265", "ray_rs_page_8265=other"), Err(Refusal::WrongKey));
        assert_eq!(Gate { key: None, ..gate }.cookie(&asked), None);
    }

    #[test]
    fn what_browsers_say_of_the_way_is_heard() {
        let gate = gate();
        let from = |site| {
            [
                ("host", "127.0.0.1:8265"),
                ("authorization", "Bearer secret"),
                ("sec-fetch-site", site),
            ]
        };
        for site in ["same-origin", "none"] {
            assert_eq!(gate.check(&headers(&from(site))), Ok(()), "{site}");
        }
        // Another port of the same host is "same-site"; cookies would go along.
        for site in ["same-site", "cross-site", ""] {
            assert_eq!(gate.check(&headers(&from(site))), Err(Refusal::ForeignPage), "{site}");
            assert_eq!(gate.check_site(&headers(&from(site))), Ok(()), "{site}");
        }
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
