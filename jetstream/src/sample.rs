//! Sample orders.

use common::payload::Order;

/// The order with this number, from 1, in this run of the program. Its id is unique across runs.
#[must_use]
pub fn order(run: u64, number: u64) -> Order {
    const ITEMS: [(&str, u64); 4] =
        [("headset", 7_425), ("keyboard", 4_999), ("monitor", 18_900), ("mouse", 1_950)];
    let turn = usize::try_from(number % 4).unwrap_or_default();
    let (item, unit_price_cents) = ITEMS[turn];
    Order {
        order_id: format!("{run:016x}-{number}"),
        item: item.into(),
        quantity: if number.is_multiple_of(3) { 2 } else { 1 },
        unit_price_cents,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_ids_name_the_run() {
        assert_eq!(order(0xbeef, 7).order_id, "000000000000beef-7");
        assert_eq!(order(0xbeef, 1).item, "keyboard");
    }
}
