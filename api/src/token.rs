//! Lease tokens on the wire: `base64url(lease id ‖ fence ‖ queue)`. Opaque to callers.
//!
//! Not signed: the engine compares lease id and fence with its own record, and a lease id has 122 random
//! bits. The queue only says which shard to ask.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use windlass_shared::model::id::{Fence, LeaseId};
use windlass_shared::model::name::QueueName;

const HEAD: usize = 24;

/// What a worker proves its lease with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The secret.
    pub lease_id: LeaseId,
    /// The lease's number.
    pub fence: Fence,
    /// Where the job is leased.
    pub queue: QueueName,
}

impl Token {
    /// The wire form.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(HEAD + self.queue.as_str().len());
        bytes.extend_from_slice(self.lease_id.as_bytes());
        bytes.extend_from_slice(&self.fence.0.to_be_bytes());
        bytes.extend_from_slice(self.queue.as_str().as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Back from the wire form; `None` for a text that is no token.
    pub fn decode(text: &str) -> Option<Self> {
        // The longest legal one: 24 bytes and a queue of 128.
        if text.len() > 204 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (head, queue) = bytes.split_at_checked(HEAD)?;
        Some(Self {
            lease_id: LeaseId::from_bytes(head[..16].try_into().ok()?),
            fence: Fence(u64::from_be_bytes(head[16..].try_into().ok()?)),
            queue: std::str::from_utf8(queue).ok()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_a_round_trip_and_refuse_nonsense() {
        let longest = "q".repeat(128);
        for queue in ["default", "a:b.c-d_e", longest.as_str()] {
            let token = Token {
                lease_id: LeaseId::random(),
                fence: Fence(1 << 52),
                queue: queue.parse().unwrap(),
            };
            assert_eq!(Token::decode(&token.encode()), Some(token));
        }
        for text in ["", "AAAA", "not base64!", &"A".repeat(32), &"A".repeat(5000)] {
            assert_eq!(Token::decode(text), None, "{text}");
        }
    }
}
