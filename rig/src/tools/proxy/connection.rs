//! One connection from its first byte to its last.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::broadcast;

use super::faults::{Direction, Side};
use super::pump::{Stop, pump};
use super::{Order, Shared, watcher};

/// Longest wait for the server to accept.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Ends a connection with RST.
pub(super) fn reset(stream: TcpStream) {
    // A failure leaves an ordinary close.
    let _ = stream.set_zero_linger();
}

/// Counts a connection as open while it lives, also when its task is aborted.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.count(|stats| stats.open -= 1);
    }
}

/// Serves connection `number`. A server that cannot be reached looks to the client like a reset.
pub(super) async fn serve(
    mut client: TcpStream,
    number: u64,
    mut orders: broadcast::Receiver<Order>,
    shared: Arc<Shared>,
) {
    let _open = Open(Arc::clone(&shared));
    let connecting = TcpStream::connect(shared.target());
    let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT_MAX, connecting).await else {
        return reset(client);
    };
    // Delays come from the faults alone. Failure would only add some.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (up, down) = watcher::watchers(&shared);
        let up = pump(from_client, to_server, Direction::Up, number, up, &shared);
        let down = pump(from_server, to_client, Direction::Down, number, down, &shared);
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.map(|_| None),
            order = next_order(&mut orders) => Ok(Some(order)),
        }
    };
    match ended {
        Ok(None) => {}
        Err(Stop::Reset) => {
            reset(client);
            reset(server);
        }
        // An ordinary close: a reset could throw away the replies that were delivered before.
        Err(Stop::ReplyLost) => shared.count(|stats| {
            stats.replies_lost += 1;
            stats.cut += 1;
        }),
        Ok(Some(order)) => {
            shared.count(|stats| stats.cut += 1);
            obey(order, client, server, &mut orders).await;
        }
    }
}

async fn obey(
    order: Order,
    client: TcpStream,
    server: TcpStream,
    orders: &mut broadcast::Receiver<Order>,
) {
    let mut left = match order {
        Order::Cut => {
            reset(client);
            return reset(server);
        }
        Order::Vanish(Side::Client) => {
            reset(client);
            server
        }
        Order::Vanish(Side::Server) => {
            reset(server);
            client
        }
    };
    let mut swallowed = [0; 4096];
    let swallow = async { while matches!(left.read(&mut swallowed).await, Ok(1..)) {} };
    let is_cut = tokio::select! {
        () = swallow => false,
        () = async { while !matches!(next_order(orders).await, Order::Cut) {} } => true,
    };
    if is_cut {
        reset(left);
    }
}

/// The next order. A connection that has missed some is cut.
async fn next_order(orders: &mut broadcast::Receiver<Order>) -> Order {
    orders.recv().await.unwrap_or(Order::Cut)
}
