//! Addresses without their secrets.

/// `url` with every password in it replaced by `***`: in the user part, and in the query under names
/// that sound like a secret. Anything that is not clearly an address without a secret is masked whole.
pub fn masked_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return if url.contains('@') { "***".into() } else { url.to_owned() };
    };
    // The last `@`, even past a `/` or `?`: a password may hold those unescaped.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let user = match user {
        Some(user) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:***@"),
            None => format!("{user}@"),
        },
        None => String::new(),
    };
    format!("{scheme}://{user}{}", masked_query(rest))
}

fn masked_query(rest: &str) -> String {
    let Some((path, query)) = rest.split_once('?') else { return rest.to_owned() };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if sounds_secret(name) => format!("{name}=***"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "pwd", "secret", "token", "key"].iter().any(|word| name.contains(word))
}

/// The password in an address, where there is one; as written.
pub(super) fn password_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_never_show() {
        for (url, shown) in [
            ("postgres://u:canary@db:5432/w", "postgres://u:***@db:5432/w"),
            ("postgres://u:can/a@r?y@db/w", "postgres://u:***@db/w"),
            ("redis://:canary@h:6379/0", "redis://:***@h:6379/0"),
            ("redis+sentinel://:canary@h1,h2/name", "redis+sentinel://:***@h1,h2/name"),
            ("postgres://h/w?user=u&password=canary", "postgres://h/w?user=u&password=***"),
            ("postgres://h/w?sslKey=canary&x=1", "postgres://h/w?sslKey=***&x=1"),
            ("u:canary@h", "***"),
            ("sqlite:///home/a@b/l.db", "sqlite:///home/a@b/l.db"),
            ("embedded", "embedded"),
            ("redis://h:6379", "redis://h:6379"),
        ] {
            assert_eq!(masked_url(url), shown);
        }
    }
}
