"""The code that the backend, the model server and the workers share. It imports none of them."""
