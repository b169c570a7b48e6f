"""One model to numbers: what is looked at while it is in hand, and every metric made from that."""
