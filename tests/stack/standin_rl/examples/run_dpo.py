from nemo_rl.standin import main

if __name__ == "__main__":
    main("dpo")
