"""What every package stands on and no user calls: checks of arguments, quadratures, trees."""
