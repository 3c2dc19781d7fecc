"""The closed loop: simulated users visit, a prediction server chooses ads, the users click."""
