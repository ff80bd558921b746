//! The lines that the programs print.

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::publish::PublishAck;
use common::payload::Order;

/// An order that is stored.
#[must_use]
pub fn stored(order: &Order, ack: &PublishAck) -> String {
    let Order { order_id, item, quantity, .. } = order;
    let number = ack.sequence;
    let note = if ack.duplicate { " (was stored already)" } else { "" };
    format!("{order_id} stored as number {number}: {quantity} x {item}{note}")
}

/// What a consumer finds.
#[must_use]
pub fn waiting(found: &Info) -> String {
    let Info { stream_name, num_pending, num_ack_pending, .. } = found;
    format!(
        "waiting for orders in {stream_name}: {num_pending} new, {num_ack_pending} unacknowledged"
    )
}

/// An order that is taken. Text in it that other programs wrote stays on its line.
#[must_use]
pub fn taken(order: &Order, delivery: i64) -> String {
    let [id, item] = [&order.order_id, &order.item].map(|text| common::printable(text));
    let (euros, cents) = (order.unit_price_cents / 100, order.unit_price_cents % 100);
    let line = format!("{id}: {} x {item} at {euros}.{cents:02}", order.quantity);
    match delivery {
        1 => line,
        // The consumer that had it before did not acknowledge it. It may have printed it.
        _ => format!("{line} (delivery {delivery})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        let order = Order {
            order_id: "1".into(),
            item: "mouse\n\u{1b}[2J".into(),
            quantity: 2,
            unit_price_cents: 1905,
        };
        assert_eq!(taken(&order, 1), "1: 2 x mouse??[2J at 19.05");
        assert!(taken(&order, 3).ends_with(" at 19.05 (delivery 3)"));
    }
}
