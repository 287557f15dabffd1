"""Late flights of 2013: will a flight out of New York arrive 15 minutes late or more?

`model` declares it, `features` is the user's own code, and `world` replays the year as a landing zone.
"""
